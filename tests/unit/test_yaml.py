"""YAML in and out: plain data, line numbers, hostile texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonas import yaml
from evonas.core import RecipeError
from evonas.yaml import YamlSyntaxError


def test_reads_yaml_1_2_values() -> None:
    text = "a: 1e-3\nb: 1_000\nc: 0x1F\nd: yes\ne: ~\nf: 2024-01-01\ng: 007\nh: 12:30:00\ni: true\nj: [1, x]\n"
    assert yaml.parse(text).data == {
        "a": 0.001, "b": 1000, "c": 31, "d": "yes", "e": None, "f": "2024-01-01", "g": 7, "h": "12:30:00", "i": True,
        "j": [1, "x"],
    }  # fmt: skip


def test_knows_the_line_of_every_key_and_item() -> None:
    lines = yaml.parse("a:\n  b: 1\n\n  c:\n    - x\n    - y: 2\n").lines
    assert lines["a",] == 1
    assert lines["a", "b"] == 2
    assert lines["a", "c"] == 4
    assert lines["a", "c", 1] == 6
    assert lines["a", "c", 1, "y"] == 6


def test_an_alias_is_its_value() -> None:
    assert yaml.parse("a: &x [1, 2]\nb: *x\n").data == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nb: .nan\n", 2, ".nan is not allowed: must be a finite number"),
        ("a: 1e999\n", 1, "1e999 is not allowed: must be a finite number"),
        ("a: 1" + "0" * 5000, 1, "100000000000... is not allowed: a whole number of more than 100 digits"),
        ("a: !!python/object:os.system x\n", 1, "is not allowed: write plain values"),
        ("a: !!binary aGk=\n", 1, "is not allowed: write plain values"),
        ("a: 1\nb: 2\na: 3\n", 3, "written twice, first in line 1: keep one"),
        ("? [x]\n: 1\n", 1, "a key must be a word, not a list or a section"),
    ],
)
def test_a_value_that_a_recipe_cannot_hold_is_a_flaw(text: str, line: int, why: str) -> None:
    (flaw,) = yaml.parse(text).flaws
    assert flaw.line == line
    assert why in flaw.text


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ("a: [1\nb: 2\n", 2, 2, "while parsing a flow sequence, expected ',' or ']', but got ':'"),
        ("a: b: c\n", 1, 5, "mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", 2, 1, "found character '\\t' that cannot start any token"),
        ("a: \x00", 1, 4, "character U+0000 is not allowed in YAML"),
        ("--- 1\n--- 2\n", 2, 1, "a second document begins here"),
        ("a: *x\n", 1, 4, "the alias '*x' stands for nothing before it"),
        ("a: &x [*x]\n", 1, 8, "the alias '*x' stands for nothing before it"),
        ("[" * 1000, 1, 33, "nested more than 32 levels deep"),
        ("? " * 1000, 1, 65, "nested more than 32 levels deep"),
        ("- " * 1000, 1, 65, "nested more than 32 levels deep"),
        ("a: 1\n" * 20_000, 1, 1, "larger than 64 KiB"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(text: str, line: int, column: int, why: str) -> None:
    with pytest.raises(YamlSyntaxError) as caught:
        yaml.parse(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_an_alias_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for name, below in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n"
    began = time.perf_counter()
    with pytest.raises(YamlSyntaxError, match="aliases expand to too many values"):
        yaml.parse(bomb)
    assert time.perf_counter() - began < 5


def test_scalar_reads_one_value() -> None:
    assert yaml.scalar("20") == 20
    assert yaml.scalar("1e-3") == 0.001
    assert yaml.scalar("[a, 1]") == ["a", 1]
    assert yaml.scalar("100k") == "100k"
    assert yaml.scalar("") is None
    with pytest.raises(RecipeError, match="must be a finite number"):
        yaml.scalar(".inf")


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=20)
    | st.sampled_from(["1e-3", "null", "true", "yes", "~", "0x1f", "1_000", "- a", "a: b", "#", "2024-01-01", ""])
)


@given(
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    )
)
def test_what_is_dumped_is_read_back(data: object) -> None:
    document = yaml.parse(yaml.dump(data))
    assert document.data == data
    assert not document.flaws
