"""neat-python's files become recipes that evonas reads; what is not carried over is told, what is broken is refused."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas import recipe
from evonas.core import RecipeError
from evonas.encoding import neat
from evonas.neat_python import BrokenConfiguration, convert, genome_json
from evonas.phenotype import network
from tests.unit.plain_genes import genes, neat_python, neat_python_network

XOR = {
    "NEAT": {"fitness_criterion": "max", "fitness_threshold": "3.9", "pop_size": "150", "reset_on_extinction": "False"},
    "DefaultGenome": {
        "activation_default": "sigmoid", "activation_mutate_rate": "0.1", "activation_options": "sigmoid tanh",
        "aggregation_default": "sum", "aggregation_mutate_rate": "0.0", "aggregation_options": "sum",
        "bias_init_mean": "0.0", "bias_init_stdev": "1.0", "bias_max_value": "30.0", "bias_min_value": "-30.0",
        "bias_mutate_power": "0.5", "bias_mutate_rate": "0.7", "bias_replace_rate": "0.1",
        "compatibility_disjoint_coefficient": "1.0", "compatibility_weight_coefficient": "0.5",
        "conn_add_prob": "0.5", "conn_delete_prob": "0.4", "enabled_default": "True", "enabled_mutate_rate": "0.0",
        "feed_forward": "True", "initial_connection": "full_direct", "node_add_prob": "0.2", "node_delete_prob": "0.3",
        "num_hidden": "0", "num_inputs": "2", "num_outputs": "1",
        "response_init_mean": "1.0", "response_init_stdev": "0.0", "response_max_value": "30.0",
        "response_min_value": "-30.0", "response_mutate_power": "0.0", "response_mutate_rate": "0.0",
        "response_replace_rate": "0.0",
        "weight_init_mean": "0.0", "weight_init_stdev": "1.0", "weight_max_value": "30", "weight_min_value": "-30",
        "weight_mutate_power": "0.5", "weight_mutate_rate": "0.8", "weight_replace_rate": "0.1",
    },
    "DefaultSpeciesSet": {"compatibility_threshold": "3.0"},
    "DefaultStagnation": {"species_fitness_func": "max", "max_stagnation": "20", "species_elitism": "2"},
    "DefaultReproduction": {"elitism": "2", "survival_threshold": "0.25"},
}  # fmt: skip
"""The configuration of neat-python's own XOR example, near enough, in the words of version 0.92."""

V2 = {
    "NEAT": {"no_fitness_termination": "False", "seed": "7"},
    "DefaultGenome": {
        "single_structural_mutation": "True", "structural_mutation_surer": "false", "bias_init_type": "gaussian",
        "response_init_type": "uniform", "response_init_stdev": "0.5", "weight_init_type": "normal",
        "enabled_rate_to_true_add": "0.0", "enabled_rate_to_false_add": "0.0",
    },
    "DefaultReproduction": {"min_species_size": "2"},
}  # fmt: skip
"""What version 2.0 asks for besides."""


def written(folder: Path, *layers: Any, name: str = "config.ini") -> Path:
    sections: dict[str, dict[str, str | None]] = {}
    for layer in layers:
        for section, values in layer.items():
            sections.setdefault(section, {}).update(values)
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items() if value is not None)]
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_example_is_carried_over_whole(tmp_path: Path) -> None:
    text, notes = convert(written(tmp_path, XOR, name="xor config.ini"))
    assert notes == []
    made = recipe.read(text)
    assert made.name == "xor-config" and (made.task.inputs, made.task.outputs) == (2, 1)
    encoding, strategy = made.encoding, made.strategy
    assert (encoding.weight.deviation, encoding.weight.draw, encoding.weight.max) == (1.0, "gauss", 30.0)
    assert (encoding.bias.mutate, encoding.bias.replace, encoding.bias.power) == (0.7, 0.1, 0.5)
    assert (encoding.activation.options, encoding.activation.mutate) == (("sigmoid", "tanh"), 0.1)
    structure = encoding.structure
    assert (structure.add_node, structure.add_link, structure.remove_node, structure.remove_link) == (
        0.2,
        0.5,
        0.3,
        0.4,
    )
    assert (encoding.distance.formula, encoding.distance.weight) == ("normalised", 0.5)
    assert encoding.initial_connection == "full" and encoding.mutate_weights == 1.0 and encoding.feed_forward
    assert (strategy.population, strategy.goal, strategy.extinct) == (150, {"fitness": 3.9}, "stop")
    assert (strategy.speciation.threshold, strategy.speciation.target) == (3.0, None)
    assert (strategy.elitism, strategy.elite_size, strategy.survival, strategy.stagnation) == (2, 0, 0.25, 20)
    assert "add_link: 0.5  # conn_add_prob" in text, "each value names its key"


def test_version_2_is_read_too(tmp_path: Path) -> None:
    text, notes = convert(written(tmp_path, XOR, V2))
    made = recipe.read(text)
    assert made.seed == 7 and made.encoding.structure.single
    assert (made.encoding.response.draw, made.encoding.response.deviation) == ("uniform", 1.0), "mean +- 2 deviations"
    (note,) = notes
    assert note.startswith("[DefaultReproduction] min_species_size = 2: not carried over;")


def test_neat_python_itself_reads_what_is_converted(tmp_path: Path) -> None:
    """The files of these tests are files of the installed neat-python."""
    library = pytest.importorskip("neat")
    values = {"init_mean": "1", "init_stdev": "0", "init_type": "gaussian", "replace_rate": "0", "mutate_rate": "0",
              "mutate_power": "0", "max_value": "10", "min_value": "0.01"}  # fmt: skip
    time = {f"time_constant_{key}": value for key, value in values.items()}
    path = written(tmp_path, XOR, V2, {"DefaultGenome": time})
    kinds = (library.DefaultGenome, library.DefaultReproduction, library.DefaultSpeciesSet, library.DefaultStagnation)
    assert library.Config(*kinds, str(path)).pop_size == 150
    _, notes = convert(path)
    assert any("time_constant_init_mean" in note and "no continuous-time networks" in note for note in notes)


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("DefaultGenome", "enabled_mutate_rate", "0.02", "written as structure.toggle: 0.02"),
        ("DefaultGenome", "enabled_default", "random", "new links are enabled here"),
        ("DefaultGenome", "enabled_rate_to_true_add", "0.1", "toggles both ways at one rate"),
        ("DefaultGenome", "structural_mutation_surer", "true", "not carried over"),
        ("DefaultGenome", "activation_options", "sigmoid wobble", "'wobble' is not among evonas' activations"),
        ("DefaultGenome", "activation_default", "sigmod", "is not known, written as sigmoid"),
        ("DefaultGenome", "conn_add_prob", "1.5", "a probability above 1 means always, written as 1"),
        ("DefaultGenome", "weight_init_mean", "99", "outside the range of values, written as 30"),
        ("DefaultGenome", "wieght_mutate_rate", "0.5", "did you mean 'weight_mutate_rate'?"),
        ("DefaultStagnation", "species_fitness_func", "mean", "improves with its best member"),
        ("DefaultReproduction", "survival_threshold", "0", "written as 0.01"),
        ("NEAT", "fitness_criterion", "mean", "a run ends when one individual reaches the goal"),
        ("NEAT", "no_fitness_termination", "True", "fitness_threshold: left out"),
        ("DefaultSpecieSet", "compatibility_threshold", "3", "did you mean 'DefaultSpeciesSet'?"),
        ("DefaultGenome", "weight_mutate_rate", None, "weight_mutate_rate: not given; evonas' defaults stand"),
    ],
)
def test_what_is_not_carried_over_is_told(tmp_path: Path, section: str, key: str, value: str | None, told: str) -> None:
    text, notes = convert(written(tmp_path, XOR, {section: {key: value}}))
    recipe.read(text)
    assert len(notes) == 1 and told in notes[0] and f"[{section}]" in notes[0], notes


@pytest.mark.parametrize(
    ("kind", "connection", "fraction", "told"),
    [
        ("unconnected", "none", None, ""),
        ("fs_neat_nohidden", "single", None, ""),
        ("fs_neat_hidden", "single", None, "not to the hidden nodes"),
        ("full_nodirect", "full", None, "directly as well"),
        ("full_direct", "full", None, ""),
        ("partial_direct 0.25", "fraction", 0.25, ""),
    ],
)
def test_initial_connections(tmp_path: Path, kind: str, connection: str, fraction: float | None, told: str) -> None:
    path = written(tmp_path, XOR, {"DefaultGenome": {"initial_connection": kind, "num_hidden": "3"}})
    text, notes = convert(path)
    encoding = recipe.read(text).encoding
    assert (encoding.initial_connection, encoding.initial_hidden) == (connection, (3, 3))
    assert fraction is None or encoding.initial_fraction == fraction
    assert [told in note for note in notes] == [True] * bool(told)


def test_a_value_that_cannot_change_stays_constant(tmp_path: Path) -> None:
    still = {"response_min_value": "1.0", "response_max_value": "1.0"}
    response = recipe.read(convert(written(tmp_path, XOR, {"DefaultGenome": still}))[0]).encoding.response
    assert (response.mean, response.deviation, response.mutate, response.replace) == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("NEAT", "pop_size", "many", "[NEAT] pop_size = 'many' is not allowed: write a whole number from 2"),
        ("NEAT", "pop_size", None, "[NEAT] pop_size is missing: add it"),
        (
            "DefaultGenome",
            "weight_mutate_rate",
            "-0.1",
            "weight_mutate_rate = '-0.1' is not allowed: write a number of",
        ),
        ("DefaultGenome", "weight_mutate_rate", "nan", "weight_mutate_rate = 'nan' is not allowed"),
        (
            "DefaultGenome",
            "weight_max_value",
            "-40",
            "weight_min_value -30 is above weight_max_value -40: exchange them",
        ),
        ("DefaultGenome", "feed_forward", "perhaps", "feed_forward = 'perhaps' is not allowed: write True or False"),
        ("DefaultGenome", "initial_connection", "fulll", "is not known; did you mean 'full'?"),
        ("DefaultGenome", "initial_connection", "partial", "write a share, `partial 0.5`"),
        ("DefaultGenome", "bias_init_type", "cauchy", "bias_init_type = 'cauchy' is not known; known: gaussian"),
    ],
)
def test_broken_values_are_refused(tmp_path: Path, section: str, key: str, value: str | None, told: str) -> None:
    with pytest.raises(BrokenConfiguration) as caught:
        convert(written(tmp_path, XOR, {section: {key: value}}))
    assert told in str(caught.value) and len(caught.value.mistakes) == 1


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(BrokenConfiguration) as caught:
        convert(written(tmp_path, XOR, {"NEAT": {"pop_size": "x"}, "DefaultGenome": {"num_inputs": "-1"}}))
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"pop_size = 3\n", "line 1: 'pop_size = 3' stands before any section: begin with [NEAT]"),
        (b"[NEAT]\npop_size = 3\npop_size = 4\n", "line 3: pop_size is given twice in [NEAT]: remove one"),
        (b"[NEAT]\na=1\n[NEAT]\n", "line 3: section [NEAT] is given twice"),
        (b"[NEAT]\nwhat is this\n", "is no `key = value`: write one"),
        (b"[tool]\na = 1\n", "no section [NEAT] or [DefaultGenome] (found: tool)"),
        (b"", "(found: none)"),
        (b"\xff\xfe\x00", "byte 0 is no UTF-8 text"),
        (b"x" * 2_000_000, "2,000,000 bytes"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "broken.ini"
    path.write_bytes(content)
    with pytest.raises(BrokenConfiguration) as caught:
        convert(path)
    assert told in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read .*nowhere\.ini: No such file"):
        convert(tmp_path / "nowhere.ini")


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([(section, key) for section, values in (*XOR.items(), *V2.items()) for key in values]),
    st.one_of(
        st.text(max_size=12), st.floats().map(str), st.integers().map(str), st.sampled_from(["True", "none", "%(x)s"])
    ),
)
def test_any_value_gives_a_recipe_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str, str], value: str
) -> None:
    line = " ".join(value.split("\n")).replace("\r", " ").encode("utf-8", "replace").decode()
    path = written(tmp_path_factory.mktemp("any"), XOR, V2, {where[0]: {where[1]: line}})
    try:
        text, _ = convert(path)
    except BrokenConfiguration:
        return
    recipe.read(text)


def test_a_converted_genome_computes_the_same() -> None:
    pytest.importorskip("neat")
    for seed in range(10):
        found = genes(Random(seed), feed_forward=seed % 2 == 0, activations=("tanh", "gauss"), aggregations=("sum",))
        data = genome_json(*neat_python(found))
        encoding = neat.NeatEncoding(neat.NeatSettings(feed_forward=found["feed_forward"]), (3,), 2)
        module = network.build(encoding.decode(encoding.from_json(data)))
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        rows = [neat_python_network(found).activate(row) for row in x.tolist()]
        torch.testing.assert_close(module(x).detach(), torch.tensor(rows), rtol=1e-4, atol=1e-5)
