"""Named streams, the JSON codec, estimates and messages."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from evonas.core import (
    Count,
    DataError,
    Edit,
    Estimate,
    Objective,
    dumps,
    generator,
    lend_global_streams,
    loads,
    nearest,
    seed_of,
    stream,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_round_trip(value: object) -> None:
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", '{"a": -1e999}', "{", "[" * 200_000, ""])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        loads(text)


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError):
        dumps({"error": math.nan})


def test_streams_have_names() -> None:
    assert stream(1, "a", 2).random() == stream(1, "a", 2).random()
    draws = {stream(*name).random() for name in [(1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3), (1, "a")]}
    assert len(draws) == 5
    assert generator(1, "a").random() == generator(1, "a").random()


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from evonas.core import seed_of; print(seed_of(3, 'estimate', 17))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == seed_of(3, "estimate", 17)


def test_lent_streams_are_given_back_even_after_an_error() -> None:
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()

    def failing() -> None:
        with lend_global_streams(1, "x"):
            random.random()
            np.random.random()
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_an_estimate_without_a_finite_value_is_failed(bad: float | None) -> None:
    given = {"error": 0.1} if bad is None else {"error": 0.1, "latency": bad}
    checked = Estimate(3, "ok", given).checked([Objective("error"), Objective("latency")])
    assert checked.status == "failed" and "latency" in checked.reason
    assert all(map(math.isfinite, checked.values.values()))


def test_estimates_and_edits_survive_json() -> None:
    edit = Edit("add_layer", (4,), (9, 10), {"channels": 16})
    assert Edit.from_json(loads(dumps(edit.to_json()))) == edit
    estimate = Estimate(1, "ok", {"error": 0.25}, curve=({"epoch": 1.0},), cost={"seconds": 2.0}, weights="ab")
    assert Estimate.from_json(loads(dumps(estimate.to_json()))) == estimate


def test_constraints_and_directions() -> None:
    limited = Objective("accuracy", direction="max", min=0.9)
    assert limited.loss(0.8) == -0.8
    assert limited.violation(0.8) == pytest.approx(0.1)
    assert limited.violation(0.95) == 0
    assert Objective("params", max=100).violation(130) == 30


class Sized(BaseModel):
    size: Count


@pytest.mark.parametrize(("text", "number"), [("100k", 100_000), ("1.5M", 1_500_000), ("2G", 2 * 10**9), (7, 7)])
def test_counts_with_suffixes(text: object, number: int) -> None:
    assert Sized(size=text).size == number  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["k", "12x", "a few", ""])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError):
        Sized(size=text)  # type: ignore[arg-type]


def test_the_nearest_known_word() -> None:
    assert nearest("latncy", ["error", "latency"]) == "did you mean 'latency'? known: error, latency"
    assert nearest("zzz", ["error"]) == "known: error"
