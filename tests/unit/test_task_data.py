"""The checks and the split: what is refused, in which words, and how rows are divided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evonas.core import DataError, EvonasError, RecipeError
from evonas.task.data import Array, Form, Origin, Rows, Source, SplitTask, TaskShape, rows

X, Y = Origin("x.npy"), Origin("y.npy")


def checked(x: Any, y: Any, form: Form | None = None) -> Rows:
    return rows(x, y, X, Y, form or Form())


def with_value(array: Array, place: tuple[int, ...], value: float) -> Array:
    changed = array.astype(np.float64)
    changed[place] = value
    return changed


GOOD = np.zeros((6, 3))
CLASSES = np.array([0, 1, 2] * 2)
CLASSIFY = Form("classification")

REFUSED: dict[str, tuple[type[EvonasError], Callable[[], Any], str]] = {
    "empty set": (DataError, lambda: checked(np.zeros((0, 3)), np.zeros(0)), r"x\.npy is empty, shape \(0, 3\): give"),
    "no column": (DataError, lambda: checked(np.zeros((6, 0)), CLASSES), r"x\.npy is empty"),
    "one number": (DataError, lambda: checked(1.0, CLASSES), r"x\.npy is empty, shape \(\)"),
    "nan": (
        DataError,
        lambda: checked(with_value(GOOD, (4, 1), np.nan), CLASSES),
        r"x\.npy, row 4, column 1: nan is no finite float32: fill it in or remove the row",
    ),
    "nan in an image": (
        DataError,
        lambda: checked(with_value(np.zeros((6, 2, 2)), (5, 1, 0), -np.inf), CLASSES),
        r"x\.npy, row 5, column 1, 0: -inf",
    ),
    "beyond float32": (DataError, lambda: checked(with_value(GOOD, (2, 0), 1e39), CLASSES), r"row 2, column 0: inf"),
    "nan target": (DataError, lambda: checked(GOOD, [1.5, np.nan, 0, 0, 0, 0]), r"y\.npy, row 1: nan"),
    "other length": (DataError, lambda: checked(GOOD, CLASSES[:5]), r"x\.npy has 6 rows, y\.npy has 5: give every row"),
    "ragged": (DataError, lambda: checked([[1, 2], [3]], [0, 1]), r"x\.npy holds object values: .*one length"),
    "text": (DataError, lambda: checked([["a"], ["b"]], [0, 1]), r"x\.npy holds <U1 values"),
    "complex": (DataError, lambda: checked(GOOD * 1j, CLASSES), r"x\.npy holds complex128 values"),
    "objects": (DataError, lambda: checked(np.array([{}, {}]), [0, 1]), r"x\.npy holds object values"),
    "one axis": (DataError, lambda: checked(np.zeros(6), CLASSES), r"x\.npy has shape \(6,\): give \(rows, features\)"),
    "five axes": (
        DataError,
        lambda: checked(np.zeros((6, 1, 1, 1, 1)), CLASSES),
        r"x\.npy has shape \(6, 1, 1, 1, 1\)",
    ),
    "channels where": (
        RecipeError,
        lambda: checked(np.zeros((6, 3, 8, 3)), CLASSES),
        r"shape \(6, 3, 8, 3\): are channels first or last\? set layout: nchw or layout: nhwc",
    ),
    "as_image": (
        RecipeError,
        lambda: checked(GOOD, CLASSES, Form(as_image=(1, 2, 2))),
        r"as_image: \[1, 2, 2\] has 4 values, a row of x\.npy 3",
    ),
    "label too large": (
        DataError,
        lambda: checked(GOOD, [0, 1, 2, 3, 1, 0], Form(labels=("a", "b", "c"))),
        r"y\.npy, row 3: label 3 is out of range 0\.\.2: number the classes",
    ),
    "label negative": (
        DataError,
        lambda: checked(GOOD, [0, 1, -1, 0, 1, 0]),
        r"y\.npy, row 2: label -1 is out of range",
    ),
    "labels from one": (
        DataError,
        lambda: checked(GOOD, CLASSES + 1),
        r"y\.npy, row 2: label 3 is out of range 0\.\.2 of 3 distinct labels",
    ),
    "half a label": (
        DataError,
        lambda: checked(GOOD, [0, 1, 0.5, 1, 0, 1], CLASSIFY),
        r"y\.npy, row 2: label 0\.5 is no whole number",
    ),
    "one-hot": (DataError, lambda: checked(GOOD, np.eye(6, dtype=int)), r"y\.npy has shape \(6, 6\): .*argmax"),
    "whole floats": (
        RecipeError,
        lambda: checked(GOOD, CLASSES.astype(float)),
        r"y\.npy holds whole numbers as floats, classes or values\? set goal:",
    ),
    "unknown class": (
        DataError,
        lambda: checked(GOOD[:2], ["cat", "dgo"], Form(labels=("cat", "dog"))),
        r"y\.npy, row 1: class 'dgo' is not in the training set; did you mean 'dog'\?",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arrays_are_refused_with_cause_value_and_cure(case: str) -> None:
    kind, call, message = REFUSED[case]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("x", "form", "shape"),
    [
        (np.zeros((6, 5)), Form(), (5,)),
        (np.zeros((6, 4, 5)), Form(), (1, 4, 5)),
        (np.zeros((6, 3, 8, 9)), Form(), (3, 8, 9)),
        (np.zeros((6, 8, 9, 3)), Form(), (3, 8, 9)),
        (np.zeros((6, 3, 8, 3)), Form(layout="nhwc"), (3, 3, 8)),
        (np.zeros((6, 3, 8, 3)), Form(layout="nchw"), (3, 8, 3)),
        (np.zeros((6, 40)), Form(as_image=(1, 1, 40)), (1, 1, 40)),
    ],
)
def test_the_layout_of_images(x: Array, form: Form, shape: tuple[int, ...]) -> None:
    for dtype in (np.uint8, np.float64):
        made = checked(x.astype(dtype), CLASSES, form)
        assert made.x.shape == (6, *shape) and made.shape.input == shape and made.x.flags.c_contiguous
        assert made.x.dtype == (np.uint8 if dtype is np.uint8 and len(shape) == 3 else np.float32)


def test_channels_last_moves_the_pixels_and_not_only_the_shape() -> None:
    x = np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3)
    made = checked(x, [0, 1])
    assert made.x[1, 2, 3, 4] == x[1, 3, 4, 2]


@pytest.mark.parametrize(
    ("y", "form", "shape"),
    [
        (CLASSES, Form(), TaskShape((3,), 3, "classification", ("0", "1", "2"))),
        (CLASSES[:, None].astype(np.uint64), Form(), TaskShape((3,), 3, "classification", ("0", "1", "2"))),
        (CLASSES > 0, Form(), TaskShape((3,), 2, "classification", ("0", "1"))),
        (CLASSES.astype(float), CLASSIFY, TaskShape((3,), 3, "classification", ("0", "1", "2"))),
        (CLASSES.astype(float), Form("regression"), TaskShape((3,), 1, "regression")),
        (CLASSES + 0.5, Form(), TaskShape((3,), 1, "regression")),
        (np.zeros((6, 2)), Form(), TaskShape((3,), 2, "regression")),
        (["b", "a", "b", "a", "c", "c"], Form(), TaskShape((3,), 3, "classification", ("a", "b", "c"))),
        (["10", "9", "10", "9", "9", "10"], Form(), TaskShape((3,), 2, "classification", ("9", "10"))),
    ],
)
def test_what_targets_mean(y: Any, form: Form, shape: TaskShape) -> None:
    made = checked(GOOD, y, form)
    assert made.shape == shape
    assert made.y.dtype == (np.int64 if shape.kind == "classification" else np.float32)


def test_text_classes_are_numbered_by_their_labels() -> None:
    assert checked(GOOD[:3], ["b", "a", "b"]).y.tolist() == [1, 0, 1]
    assert checked(GOOD[:3], ["b", "a", "b"], Form(labels=("b", "a"))).y.tolist() == [0, 1, 0]


# ----------------------------------------------------------------------------------------------------------- split


def classes_of(counts: list[int]) -> Rows:
    y = np.repeat(np.arange(len(counts)), counts)
    return checked(np.arange(len(y), dtype=np.float32)[:, None], y)


def ids(part: Array) -> list[int]:
    return [int(row) for row in part.ravel()]


@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=6),
    validation=st.floats(0.05, 0.5),
    test=st.floats(0.05, 0.5),
    seed=st.integers(0, 2**63),
)
def test_parts_are_disjoint_complete_and_stratified(
    counts: list[int], validation: float, test: float, seed: int
) -> None:
    whole = classes_of(counts)
    made = SplitTask(lambda: Source(whole), validation, test)
    total, classes = sum(counts), len(counts)
    assume(classes <= max(1, round(test * total)) <= total - 2 * classes)
    rest = total - max(1, round(test * total))
    assume(classes <= max(1, round(validation * rest)) <= rest - classes)
    data = made.load(seed)
    held, held_y = made.load_test(seed)
    parts = {"train": ids(data.x_train), "validation": ids(data.x_valid), "test": ids(held)}
    assert sorted(row for part in parts.values() for row in part) == list(range(total))
    assert made.sizes(seed) == {name: len(part) for name, part in parts.items()}
    assert len(held) == max(1, round(test * total))
    for klass, count in enumerate(counts):
        share = int((held_y == klass).sum())
        assert 1 <= share <= count - 2
        assert klass in data.y_train and klass in data.y_valid
        exact = count * len(held) / total
        if all(1 <= other * len(held) / total <= other - 2 for other in counts):
            assert abs(share - exact) < 1


def test_counts_and_fractions_choose_the_sizes() -> None:
    whole = classes_of([50, 50])
    assert SplitTask(lambda: Source(whole), 10, 20).sizes(0) == {"train": 70, "validation": 10, "test": 20}
    assert SplitTask(lambda: Source(whole), 0.25, 0.2).sizes(0) == {"train": 60, "validation": 20, "test": 20}
    assert SplitTask(lambda: Source(whole), 0.25).sizes(0) == {"train": 60, "validation": 20, "test": 20}
    official = Source(whole, lambda: classes_of([5, 5]))
    assert SplitTask(lambda: official, 0.25).sizes(0) == {"train": 75, "validation": 25, "test": 10}


def test_a_smaller_limit_is_part_of_a_larger_one() -> None:
    whole = classes_of([40, 20, 20])
    parts = [set(ids(SplitTask(lambda: Source(whole), 0.2, limit=n).load(1).x_train)) for n in (4, 12, 40, 51)]
    assert [len(part) for part in parts] == [4, 12, 40, 51]
    assert parts[0] < parts[1] < parts[2] < parts[3]
    assert len(SplitTask(lambda: Source(whole), 0.2, limit=10**6).load(1).x_train) == 51


def test_the_test_set_is_read_only_when_it_is_asked_for() -> None:
    asked = []

    def official() -> Rows:
        asked.append(1)
        return classes_of([5, 5])

    made = SplitTask(lambda: Source(classes_of([20, 20]), official), 0.2)
    made.shape(), made.load(0)
    assert asked == []
    assert len(made.load_test(0)[0]) == 10 and asked == [1]


IMPOSSIBLE: dict[str, tuple[type[EvonasError], Callable[[], SplitTask], str]] = {
    "too many": (
        RecipeError,
        lambda: SplitTask(lambda: Source(classes_of([10, 10])), 17, 2),
        r"validation: 17 of 18 rows of y\.npy cannot be taken: choose 2 to 16",
    ),
    "too few": (RecipeError, lambda: SplitTask(lambda: Source(classes_of([9, 9])), 0.2, 1), r"test: 1 of 18 rows"),
    "limit too few": (
        RecipeError,
        lambda: SplitTask(lambda: Source(classes_of([9] * 3)), 0.2, limit=2),
        r"limit: 2 of",
    ),
    "one class": (
        DataError,
        lambda: SplitTask(lambda: Source(classes_of([10])), 0.2),
        r"every label is '0': give .*two",
    ),
    "rare class": (
        DataError,
        lambda: SplitTask(lambda: Source(classes_of([10, 2])), 0.2),
        r"class '1' has 2 rows, the split needs 3: add rows",
    ),
    "few values": (
        DataError,
        lambda: SplitTask(lambda: Source(checked(GOOD[:2], [0.5, 1.5])), 0.2),
        r"y\.npy: 2 rows are too few for 3 parts",
    ),
    "test given twice": (
        RecipeError,
        lambda: SplitTask(lambda: Source(classes_of([9, 9]), lambda: classes_of([3, 3])), 0.2, test=0.5),
        r"test: y\.npy brings its own test set: leave the setting out",
    ),
    "test set of another shape": (
        DataError,
        lambda: SplitTask(lambda: Source(classes_of([9, 9]), lambda: checked(GOOD, [0, 1] * 3)), 0.2),
        r"the test set has shape \(3,\) and 2 outputs, the training set \(1,\) and 2",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_split_that_cannot_be_made_is_refused(case: str) -> None:
    kind, make, message = IMPOSSIBLE[case]
    with pytest.raises(kind, match=message):
        make().sizes(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_agree_with_numpy_and_a_constant_channel_stays_finite(dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3000, 2, 3, 3)).astype(dtype)
    x[:, 1] = 7
    data = SplitTask(lambda: Source(checked(x, np.arange(3000) % 2, Form(layout="nchw"))), 0.2).load(0)
    np.testing.assert_allclose(data.mean, data.x_train.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(data.std[0], data.x_train[:, 0].astype(np.float64).std(), rtol=1e-6)
    assert data.std[1] == 1 and data.mean[1] == 7


def test_moments_of_large_numbers_do_not_cancel() -> None:
    x = (1e6 + np.random.default_rng(0).normal(size=(500, 1))).astype(np.float32)
    data = SplitTask(lambda: Source(checked(x, np.arange(500) % 2)), 0.2).load(0)
    np.testing.assert_allclose(data.std, data.x_train.astype(np.float64).std(axis=0), rtol=1e-6)
