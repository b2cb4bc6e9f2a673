"""Exclusive or, parity and two spirals as tasks."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from evonas import task
from evonas.core import Settings
from evonas.task import ParitySettings, SpiralsSettings, XorSettings

ALL = [XorSettings(), ParitySettings(bits=4), SpiralsSettings(), XorSettings(bias=1.0), SpiralsSettings(bias=-1.0)]


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_all_rows_train_and_score_and_nothing_is_normalised(settings: Settings) -> None:
    made = task.build(settings)
    data, shape = made.load(0), made.shape()
    assert data.shape == shape and (shape.outputs, shape.kind) == (1, "regression")
    np.testing.assert_array_equal(data.x_train, data.x_valid)
    np.testing.assert_array_equal(data.y_train, data.y_valid)
    assert data.x_train.shape[1:] == shape.input and data.x_train.dtype == data.y_train.dtype == np.float32
    assert not data.mean.any() and (data.std == 1).all() and data.mean.shape == data.std.shape == shape.input
    assert data.target_mean.tolist() == [0] and data.target_std.tolist() == [1]
    assert set(data.y_train.ravel()) == {0, 1}


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_seeds_change_nothing_and_sizes_are_told(settings: Settings) -> None:
    made = task.build(settings)
    one, other, test = made.load(0), made.load(5), made.load_test(0)
    np.testing.assert_array_equal(one.x_train, other.x_train)
    assert made.sizes(0) == {"train": len(one.x_train), "validation": len(one.x_valid), "test": len(test[0])}
    assert test[0].shape == (len(test[1]), *made.shape().input) and test[1].shape == (len(test[0]), 1)


def test_exclusive_or() -> None:
    data = task.build(XorSettings()).load(0)
    assert data.x_train.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and data.y_train.ravel().tolist() == [0, 1, 1, 0]


def test_a_constant_is_the_last_input() -> None:
    data = task.build(XorSettings(bias=0.5)).load(0)
    assert data.x_train.tolist() == [[0, 0, 0.5], [0, 1, 0.5], [1, 0, 0.5], [1, 1, 0.5]]


def test_parity_is_that_of_the_ones() -> None:
    data = task.build(ParitySettings(bits=5)).load(0)
    assert len(np.unique(data.x_train, axis=0)) == 32
    assert data.y_train.ravel().tolist() == [sum(row) % 2 for row in data.x_train.tolist()]
    with pytest.raises(ValidationError, match="less than or equal to 16"):
        ParitySettings(bits=17)


def test_spirals_are_lang_and_witbrocks() -> None:
    data = task.build(SpiralsSettings()).load(0)
    x, y = data.x_train, data.y_train.ravel()
    assert len(x) == 194 and y.sum() == 97
    np.testing.assert_allclose(x[0], [0, 6.5], atol=1e-6)
    np.testing.assert_allclose(np.hypot(*x[96]), 0.5)
    np.testing.assert_array_equal(x[y == 0], -x[y == 1])
    radii = np.hypot(*x[y == 1].T)
    assert (np.diff(radii) < 0).all()
    turns = np.unwrap(np.arctan2(x[:97, 0], x[:97, 1]))
    np.testing.assert_allclose(turns[-1] - turns[0], 6 * np.pi, rtol=1e-5)  # three times round


def test_spirals_are_tested_between_their_points() -> None:
    made = task.build(SpiralsSettings())
    data, (x, y) = made.load(0), made.load_test(0)
    assert len(x) == 192 and y.sum() == 96
    nearest = np.linalg.norm(x[:, None] - data.x_train[None], axis=2)
    assert nearest.min() > 0
    same = y.ravel()[:, None] == data.y_train.ravel()[None]
    along = np.sort(np.where(same, nearest, np.inf), axis=1)[:, 1]  # both neighbours are of its own spiral
    assert (along < np.where(same, np.inf, nearest).min(axis=1)).all()
