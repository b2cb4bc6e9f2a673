"""What every encoding promises, over the table of encodings: genomes stay valid, are never changed, can be stored, and
mean the same in every process."""

from __future__ import annotations

import ast
import inspect
import os
import pickle
import random
import subprocess
import sys
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from evonas.core import Encoding, Settings, dumps, loads
from evonas.encoding import TABLE, build
from evonas.encoding.lowering import CellOp
from evonas.marks import INPUT, OUTPUT, MarkBook, Marks
from evonas.phenotype.network import build as build_network

SHAPES = [(3, 5, 7), (1, 1, 40), (1, 8, 8), (3, 32, 32), (13,), (1, 1, 1), (1,)]
OUTPUTS = 4
IMAGES_ONLY = {"cell"}
WIDE: dict[str, dict[str, Any]] = {
    "cell": {
        "cells": ["normal", "reduction"],
        "inputs": 2,
        "nodes": 4,
        "edges": "two",
        "ops": list(get_args(CellOp)),
        "output": "loose",
        "skeleton": {"stem": "wide", "channels": 3, "repeats": 1, "stages": 2, "reduce": "cell", "head": "wide"},
        "changes": 2,
    },
    "dag": {
        "channels": [1, 3, 7, 8, 16],
        "kernels": [1, 3, 5, 7],
        "pool_kernels": [2, 3, 4, 5],
        "dilations": [1, 2, 3],
        "activations": ["linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "relu6", "hardswish"],
        "norms": ["none", "batch", "group"],
        "reduces": ["mean", "flatten"],
        "layers": [0, 14],
        "edits": [1, 3],
    },
    "neat": {
        "feed_forward": False,
        "response": {"mean": 1.0, "power": 0.2},
        "activation": {
            "default": "random",
            "options": ["sigmoid", "tanh", "sin", "gauss", "relu", "softplus", "clamped", "abs", "hat"],
            "mutate": 0.2,
        },
        "aggregation": {"options": ["sum", "product", "min", "max", "maxabs", "median", "mean"], "mutate": 0.2},
        "structure": {"add_node": 0.4, "add_link": 0.5, "remove_node": 0.1, "remove_link": 0.1, "toggle": 0.2},
        "crossover": {"average": 0.3},
        "distance": {"formula": "normalised"},
        "initial_connection": "fraction",
        "initial_fraction": 0.2,
        "initial_hidden": [0, 3],
    },
}
"""Settings of each kind that reach everything it can express."""
SMALL: dict[str, dict[str, Any]] = {"cell": {"skeleton": {"channels": 4, "repeats": 1}}}
"""What default settings are cut down by: fifteen cells make every test slow and none better."""
LARGE = {"neat": 200}
"""Most inputs to try a kind with: a gene for each of 12,000 links makes every test slow and none better."""


def spaces() -> list[Any]:
    found = []
    for kind, settings in TABLE.items():
        for label, values in (("default", SMALL.get(kind, {})), ("wide", WIDE.get(kind, {}))):
            found += [
                pytest.param((settings(**values), shape), id=f"{kind}-{label}-{shape}")
                for shape in SHAPES
                if prod(shape) <= LARGE.get(kind, prod(shape)) and (len(shape) == 3 or kind not in IMAGES_ONLY)
            ]
    return found


@pytest.fixture(params=spaces())
def encoding(request: pytest.FixtureRequest) -> Encoding:
    settings, shape = request.param
    return build(settings, shape, OUTPUTS)


def evolve(encoding: Encoding, steps: int, marks: MarkBook | None = None) -> list[Any]:
    """Genomes of walks of 60 random mutations, each from a new random genome."""
    rng, marks, found = random.Random(0), marks or MarkBook(), []
    genome = encoding.random(rng, marks)
    for step in range(steps):
        result = encoding.mutate(genome, rng, marks)
        genome = encoding.random(rng, marks) if result is None or step % 60 == 59 else result[0]
        found.append(genome)
    return found


def test_ten_thousand_mutations_stay_valid_and_become_networks(encoding: Encoding) -> None:
    """480 for each of 36 spaces; every one is checked and decoded, one in 24 goes forward and backward."""
    shape = encoding.input_shape  # type: ignore[attr-defined]
    trained = 0
    for i, genome in enumerate(evolve(encoding, 480)):
        encoding.check(genome)
        plan = encoding.decode(genome)
        assert plan.steps[0].shape == shape and plan.steps[-1].shape == (OUTPUTS,)
        assert all(j < k for k, step in enumerate(plan.steps) for j in step.inputs)
        assert all(extent >= 1 for step in plan.steps for extent in step.shape)
        if i % 24 == 0 and plan.flops < 2e7:
            network = build_network(plan, seed=i)
            network(torch.randn(2, *shape)).square().sum().backward()
            gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
            assert gradients and all(g is not None and g.isfinite().all() for g in gradients)
            trained += 1
    assert trained >= 12


def test_json_round_trip(encoding: Encoding) -> None:
    for genome in evolve(encoding, 60):
        again = encoding.from_json(loads(dumps(encoding.to_json(genome))))
        assert again == genome and again.key == genome.key and hash(again) == hash(genome)


def test_keys_tell_genomes_apart(encoding: Encoding) -> None:
    texts: dict[str, str] = {}
    for genome in evolve(encoding, 100):
        text = dumps(encoding.to_json(genome))
        assert texts.setdefault(genome.key, text) == text
    assert len(texts) > 50


def test_parents_are_untouched(encoding: Encoding) -> None:
    rng, marks = random.Random(1), MarkBook()
    population = evolve(encoding, 40, marks=marks)
    before = [(pickle.loads(pickle.dumps(genome)), dumps(encoding.to_json(genome))) for genome in population]
    for a, b in pairwise(population):
        encoding.mutate(a, rng, marks)
        encoding.mate(a, b, rng, marks)
        encoding.distance(a, b)
        encoding.decode(a)
    for genome, (copy, text) in zip(population, before, strict=True):
        assert genome == copy and dumps(encoding.to_json(genome)) == text


def test_crossover_gives_valid_children_of_their_parents_genes(encoding: Encoding) -> None:
    rng, marks = random.Random(2), MarkBook()
    population = evolve(encoding, 120, marks=marks)
    for fitter, other in zip(population, reversed(population), strict=True):
        child, edits = encoding.mate(fitter, other, rng, marks)
        encoding.check(child)
        encoding.decode(child)
        assert encoding.alive(child) <= encoding.alive(fitter) | encoding.alive(other)
        assert bool(edits) or child == fitter


def test_crossover_with_itself_is_itself(encoding: Encoding) -> None:
    rng, marks = random.Random(3), MarkBook()
    for genome in evolve(encoding, 40, marks=marks):
        assert encoding.mate(genome, genome, rng, marks)[0] == genome


def test_distance_is_zero_to_itself_and_symmetric(encoding: Encoding) -> None:
    population = evolve(encoding, 60)
    for a, b in pairwise(population):
        assert encoding.distance(a, a) == 0.0
        assert encoding.distance(a, b) == encoding.distance(b, a) >= 0.0
        assert (encoding.distance(a, b) > 0.0) == (a != b)


def test_the_same_structural_change_gets_the_same_mark(encoding: Encoding) -> None:
    """Many children of one parent, each with its own draws: equal places get equal marks, other places others."""
    marks = MarkBook()
    parent = encoding.random(random.Random(0), marks)
    made: dict[Any, tuple[int, ...]] = {}
    repeated = 0
    for seed in range(10_000):
        result = encoding.mutate(parent, random.Random(seed), marks)
        first = result[1][0] if result else None
        if first and first.made:
            # the genes that a change of cells makes say where their edges lead
            place = (first.op, first.where, dumps(first.args) if encoding.name == "cell" else "")
            repeated += place in made
            assert made.setdefault(place, first.made) == first.made
        if repeated > 10 and seed >= 150:
            return
    pytest.fail(f"only {repeated} repetitions")


def test_marks_are_alive_and_never_handed_out_twice(encoding: Encoding) -> None:
    marks = MarkBook()
    for genome in evolve(encoding, 80, marks=marks):
        assert {INPUT, OUTPUT} <= encoding.alive(genome)
        assert max(encoding.alive(genome)) < marks.close().next
    assert Marks.from_json(loads(dumps(marks.close().to_json()))) == marks.close()


LINEAGE = """
import json, random, sys
from evonas.encoding import TABLE, build
from evonas.marks import MarkBook
kind, values, shape = json.loads(sys.argv[1])
encoding = build(TABLE[kind](**values), tuple(shape), 4)
rng, marks = random.Random(9), MarkBook()
population = [encoding.random(rng, marks) for _ in range(6)]
for step in range(200):
    a, b = rng.sample(population, 2)
    child = encoding.mate(a, b, rng, marks)[0]
    result = encoding.mutate(child, rng, marks)
    population[step % 6] = result[0] if result else child
print([genome.key for genome in population], marks.close())
"""


@pytest.mark.parametrize("kind", TABLE)
def test_evolution_and_keys_are_equal_in_every_process(kind: str) -> None:
    """Python orders sets of words differently under another hash seed: nothing may depend on it."""
    arguments = dumps([kind, WIDE.get(kind, {}), [1, 8, 8]])
    printed = {
        subprocess.run(
            [sys.executable, "-c", LINEAGE, arguments],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1 and len(printed.pop()) > 200


@pytest.mark.parametrize("kind", TABLE)
def test_settings_name_their_kind_and_round_trip(kind: str) -> None:
    settings: Settings = TABLE[kind](**WIDE.get(kind, {}))
    assert settings.kind == kind  # type: ignore[attr-defined]
    assert TABLE[kind](**loads(dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize("kind", TABLE)
def test_every_setting_is_described(kind: str) -> None:
    body = ast.parse(inspect.getsource(TABLE[kind])).body[0].body  # type: ignore[attr-defined]
    for field, after in pairwise([*body, ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) != "kind":
            described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert described, f"{kind}: {ast.unparse(field.target)} lacks a docstring"
