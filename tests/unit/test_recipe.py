"""The recipe: all mistakes at once, defaults, overrides, round trips, and what a resume may change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas import encoding, estimate, pool, recipe, strategy, task
from evonas.core import RecipeError
from evonas.imported import Imported
from evonas.recipe import InvalidRecipe, Recipe
from evonas.validation import descriptions, models

ROOT = Path(__file__).resolve().parents[2]
TASK = "task: {{{}}}\nobjectives: [error]\n"
GOALS = "task: {kind: digits}\nobjectives: "
GOOD = "task: {kind: digits}\nobjectives: [error, params]\n"


def wrong(source: Any, overrides: Mapping[str, str] | None = None) -> list[str]:
    """The mistakes of a recipe, one line each."""
    with pytest.raises(InvalidRecipe) as caught:
        recipe.read(source, overrides or {})
    assert str(caught.value).split("\n") == list(caught.value.mistakes)
    assert caught.value.exit_code == 2
    return list(caught.value.mistakes)


# ------------------------------------------------------------------------------------------------------- mistakes


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("""\
seed: true
tsk: {kind: digits}
task: {kind: digts}
objectives: [eror, {name: latncy, maks: 3}, {name: flops, max: lots}]
strategy:
  generatoins: 10
  population: 1
  select: {name: selTornament}
  survive: 7
estimator:
  epochs: 0
  device: cdua
  batch_size: many
  optimizer: {lr: yes, betas: [0.9]}
  label_smoothing: .nan
final: {test: 1}
store: {keep_weights: al}
""")
    told = [line.removeprefix(str(path)) for line in wrong(path)]
    starts = [
        ":1: seed: true is not allowed: must be a whole number, from 0 to 9223372036854775807",
        ":2: tsk: not known; did you mean 'task'? known: version, name, seed, task",
        ":3: task.kind: 'digts' is not known; did you mean 'digits'? known: digits, iris",
        ":4: objectives.0: objective 'eror' is not known; did you mean 'error'? known: error, accuracy",
        ":4: objectives.1.maks: not known; known: name, kind",
        ":4: objectives.2.max: 'lots' is not allowed: must be a number",
        ":4: objectives.1: objective 'latncy' is not known; did you mean 'latency'? known: error",
        ":6: strategy.generatoins: not known; did you mean 'generations'? known: kind, population",
        ":7: strategy.population: 1 is not allowed: must be from 2 to 1000000",
        ":8: strategy.select.name: 'selTornament' is no DEAP selection operator; did you mean 'selTournament'?",
        ":9: strategy.survive: 7 is not allowed: must be 'rank-and-crowding' or a section",
        ":11: estimator.epochs: 0 is not allowed: must be from 1 to 100000",
        ":12: estimator.device: 'cdua' is not known; did you mean 'cuda'? known: auto, cpu, cuda, mps",
        ":13: estimator.batch_size: 'many' is not allowed: must be a whole number, from 1 to 1000000",
        ":14: estimator.optimizer.lr: 'yes' is not allowed: must be a number, more than 0 and at most 100",
        ":14: estimator.optimizer.betas.1: missing: the list is too short",
        ":15: estimator.label_smoothing: .nan is not allowed: must be a finite number",
        ":16: final.test: not known; known: kind, epochs",
        ":17: store.keep_weights: 'al' is not known; did you mean 'all'? known: champions, front, all",
    ]
    assert len(told) == len(starts), told
    for line, start in zip(told, starts, strict=True):
        assert line.startswith(start), (line, start)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("objectives: [error]\n", "recipe:1: task: missing: what is to be solved, such as `{kind: digits}`."),
        (TASK.format("validation: 0.1"), "recipe:1: task.kind: missing; known: digits, iris"),
        ("task:\nobjectives: [error]\n", "recipe:1: task: missing: what is to be solved"),
        ("task: digits\nobjectives: [error]\n", "recipe:1: task: 'digits' is not allowed: must be a section"),
        (GOOD + "pool: {kind: 3}\n", "recipe:3: pool.kind: 3 is not known; known: serial, processes"),
        (GOOD + "strategy: {kind: ngsa2}", "recipe:3: strategy.kind: 'ngsa2' is not known; did you mean 'nsga2'?"),
        (GOOD + "pool: {kind: 'a.b:'}", "recipe:3: pool.kind: 'a.b:' is not allowed: must be `package.module:object`"),
        (GOOD + "strategy: {kind: 'a.b:c'}", "recipe:3: strategy.kind: no module 'a': install it or correct 'a.b:c'"),
        (TASK.format("kind: csv"), "recipe:1: task.file: missing: the table, UTF-8."),
        (TASK.format("kind: digits, validation: 1.5"), "recipe:1: task.validation: 1.5 is not allowed: give"),
        (GOALS + "[]", "recipe:2: objectives: [] is not allowed: must be a list of at least 1"),
        (GOALS + "error", "recipe:2: objectives: 'error' is not allowed: must be a list"),
        (GOALS + "[error, 5]", "recipe:2: objectives.1: 5 is not allowed: must be a section"),
        (GOALS + "[params, flops, params]", "recipe:2: objectives.2: objective 'params' is listed"),
        (GOALS + "[{name: params, max: 1, min: 2}]", "recipe:2: objectives.0: objective 'params': min 2"),
        (GOOD + "encoding: {bounds: {params: 0}}\n", "recipe:3: encoding.bounds.params: 0 is not allowed: must be"),
        (GOOD + "name: ../x\n", "recipe:3: name: run name '../x' is not allowed"),
        (GOOD + "name: con\n", "recipe:3: name: run name 'con' is not allowed"),
        (GOOD + "seed: -1\n", "recipe:3: seed: -1 is not allowed: must be from 0 to 92"),
        (GOOD + "seed: 1\nseed: 2\n", "recipe:4: seed: written twice, first in line 3: keep one"),
        (GOOD + "'\\e[31mx': 1\n", "recipe:3: \\e[31mx: not known"),
        (GOOD + '"\\e[31mx": 1\n', "recipe:3: \\x1b[31mx: not known"),
        (GOOD + "strategy: {population: '\\e'}\n", "recipe:3: strategy.population: '\\\\e' is not allowed: must be"),
        (GOOD + "version: 3\n", "recipe:3: version: written for recipe version 3, this evonas reads up to 1"),
        ("a: [1\n", "recipe:2:1: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("- a\n- b\n", "recipe:1: a list is not allowed: a recipe is lines of key: value"),
        ("# nothing\n", "recipe: empty: write a recipe, or let evonas init write one"),
        (GOOD + "encoding: {initial: [a, b]}\nstrategy: {kind: random, population: 1}", "recipe:3: encoding.initial:"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_line_place_value_and_cure(text: str, line: str) -> None:
    (told,) = wrong(text)
    assert told.startswith(line)
    assert told.isprintable()


def test_an_objective_that_needs_training_does_not_fit_a_lookup() -> None:
    text = "task: {kind: digits}\nestimator: {kind: lookup}\nobjectives: [params, error]\n"
    assert wrong(text) == [
        "recipe:3: objectives.1: 'error' needs training, and estimator 'lookup' does none: "
        "set estimator.kind: train, or name an estimator.function that knows it"
    ]


def test_rules_between_sections_are_told_beside_mistakes_of_other_sections() -> None:
    told = wrong("task: {kind: digts}\nobjectives: [params, params]\nstore: {keep_weights: none}\n")
    assert [line.split(": ")[1] for line in told] == ["task.kind", "objectives.1", "store.keep_weights"]


def test_an_absent_function_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: {kind: digits}\nobjectives: [error, {name: mine, function: 'gone.py:measure'}]\n")
    (told,) = wrong(path)
    assert "objectives.1: objective 'mine': no file" in told
    assert str(tmp_path / "gone.py") in told


def test_mistakes_in_a_mapping_have_no_line() -> None:
    assert wrong({"task": {"kind": "digits"}, "objectives": ["error"], "sed": 1}) == [
        "recipe: sed: not known; did you mean 'seed'? known: " + ", ".join(Recipe.model_fields)
    ]


def test_a_missing_file_is_named_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"^no recipe nope\.yaml: write one with: evonas init$"):
        recipe.read("nope.yaml")
    (tmp_path / "digits.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"no recipe digts\.yaml: did you mean 'digits\.yaml'\? known: digits\.yaml"):
        recipe.read("digts.yaml")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*: Is a directory"):
        recipe.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml: not UTF-8 text \(byte 9\): save the recipe as UTF-8"):
        recipe.read(tmp_path / "latin.yaml")


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "name", "x", "0"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), _ODD, max_size=5))
def test_any_mapping_is_a_recipe_or_told_in_plain_lines(data: dict[str, Any]) -> None:
    told: tuple[str, ...] = ("recipe: valid",)
    try:
        recipe.read({"task": {"kind": "digits"}, "objectives": ["error"], **data})
    except InvalidRecipe as error:
        told = error.mistakes
    assert told
    assert all(line.startswith("recipe: ") and line.isprintable() for line in told)


# ------------------------------------------------------------------------------------------------ defaults, overrides


def test_what_is_left_out_has_a_default() -> None:
    read = recipe.read(GOOD)
    assert isinstance(read.encoding, encoding.TABLE["dag"])
    assert isinstance(read.strategy, strategy.Nsga2Settings)
    assert isinstance(read.estimator, estimate.TrainSettings)
    assert isinstance(read.pool, pool.TABLE["processes"])
    assert [one.name for one in read.objectives] == ["error", "params"]
    assert read.store.keep_weights == "front"


def test_a_recipe_is_named_after_its_file_unless_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "my flowers.yaml"
    path.write_text(GOOD)
    assert recipe.read(path).name == "my-flowers"
    path.write_text(GOOD + "name: other\n")
    assert recipe.read(path).name == "other"


def test_the_final_training_takes_over_from_the_estimator_what_it_does_not_say() -> None:
    text = GOOD + (
        "estimator: {epochs: 3, share: 0.5, time_limit: 9, batch_size: 32, optimizer: {kind: adamw, lr: 0.01}}\n"
        "final: {epochs: 70, optimizer: {lr: 0.02}}\n"
    )
    read = recipe.read(text)
    assert read.final.epochs == 70
    assert read.final.batch_size == 32
    assert (read.final.optimizer.kind, read.final.optimizer.lr) == ("adamw", 0.02)
    assert read.final.share == 1.0
    assert read.final.time_limit is None
    other = recipe.read(text.replace("optimizer: {lr: 0.02}", "optimizer: {kind: sgd}"))
    assert (other.final.optimizer.kind, other.final.optimizer.lr) == ("sgd", 0.2)
    assert recipe.read(GOOD).final.epochs == estimate.FinalSettings().epochs


def test_overrides_are_yaml_values_by_dotted_path() -> None:
    changes = {
        "strategy.generations": "20", "seed": "7", "estimator.optimizer": "{kind: adamw, lr: 1e-3}",
        "objectives.1": "{name: params, max: 100k}", "encoding.bounds.flops": "2M", "strategy.speciation": "null",
    }  # fmt: skip
    read = recipe.read(GOOD, changes)
    assert read.strategy.generations == 20
    assert read.seed == 7
    assert read.estimator.optimizer.lr == 1e-3
    assert read.objectives[1].max == 100_000
    assert read.encoding.bounds.flops == 2_000_000
    assert read.strategy.speciation is None
    assert recipe.override(read, {"seed": "8"}) == recipe.read(GOOD, {**changes, "seed": "8"})


def test_another_kind_by_override_leaves_out_what_only_the_old_kind_knows() -> None:
    text = GOOD + "strategy: {kind: nsga2, population: 30, crossover: 0.1}\n"
    read = recipe.read(text, {"strategy.kind": "random"})
    assert read.strategy == strategy.RandomSettings(population=30)
    (told,) = wrong(GOOD + "strategy: {kind: nsga2, crosover: 0.1}\n", {"strategy.kind": "random"})
    assert told.startswith("recipe:3: strategy.crosover: not known")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("strategy.generatoins", "20", "--set: strategy.generatoins: not known; did you mean 'generations'?"),
        (
            "strategy.generations",
            "x",
            "--set: strategy.generations: 'x' is not allowed: must be a whole number, from 1",
        ),
        ("strategy.kind", "ngsa2", "--set: strategy.kind: 'ngsa2' is not known; did you mean 'nsga2'?"),
        ("seed.x", "1", "--set: seed.x: seed is 3 and has no entries to set"),
        ("objectives.5", "error", "--set: objectives.5: objectives has entries 0 to 1, none 5"),
        ("objectives.x", "error", "--set: objectives.x: objectives has entries 0 to 1, none 'x'"),
        ("seed", "[1", "--set: seed: '[1' is not valid YAML: while parsing a flow sequence"),
        ("seed", ".inf", "--set: seed: .inf is not allowed: must be a finite number"),
    ],
)
def test_a_wrong_override_is_told_like_a_wrong_line(key: str, value: str, line: str) -> None:
    (told,) = wrong(GOOD + "seed: 3\n", {key: value})
    assert told.startswith(line)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def measure(network, data): return 0.0\n")
    (tmp_path / "r.yaml").write_text(
        "task: {kind: csv, file: table.csv}\nencoding: {initial: [lenet-5, g.json]}\n"
        "objectives: [error, {name: mine, function: 'mine.py:measure'}]\n"
        "pool: {kind: 'mine.py:Cluster', settings: {nodes: 3}}\n"
    )
    monkeypatch.chdir("/")
    read = recipe.read(tmp_path / "r.yaml")
    assert read.task.file == tmp_path / "table.csv"
    assert read.objectives[1].function == f"{tmp_path / 'mine.py'}:measure"
    assert read.encoding.initial == ("lenet-5", str(tmp_path / "g.json"))
    assert read.pool == Imported(kind=f"{tmp_path / 'mine.py'}:Cluster", settings={"nodes": 3})


# ------------------------------------------------------------------------------------------------ writing, comparing


@pytest.mark.parametrize("kind", list(task.TABLE))
def test_the_starter_is_a_valid_recipe_that_tells_the_alternatives(kind: str) -> None:
    text = recipe.starter(kind, "mine.yaml")
    read = recipe.read(text)
    assert read.task.kind == kind
    pools = [pool] if issubclass(task.TABLE[kind], task.TaskSettings) else []  # a population is computed in one process
    for room in (task, encoding, strategy, estimate, *pools):
        for known in room.TABLE:
            assert known in text
    assert "evonas run mine.yaml" in text
    sections = set(Recipe.model_fields) - (set() if pools else {"pool", "final"})
    assert all(f"\n{section}:" in text for section in sections)


def test_a_starter_for_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="task 'digts' is not known; did you mean 'digits'"):
        recipe.starter("digts")


@pytest.mark.parametrize("text", [GOOD, recipe.starter("digits"), recipe.starter("csv")])
def test_a_resolved_recipe_reads_back_equal(text: str) -> None:
    read = recipe.read(text)
    assert recipe.read(recipe.to_yaml(read)) == read
    assert recipe.from_json(json.loads(json.dumps(read.model_dump(mode="json")))) == read
    assert recipe.differing(read, recipe.read(recipe.to_yaml(read))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    assert recipe.read(path).name == path.stem


def test_differences_are_told_by_path_and_limits_may_change() -> None:
    old = recipe.read(GOOD)
    new = recipe.override(
        old,
        {"name": "other", "seed": "4", "strategy.generations": "30", "pool.workers": "1", "estimator.time_limit": "5"},
    )
    differences = recipe.differing(old, new)
    assert ("seed", 0, 4) in differences
    assert ("strategy.generations", 10, 30) in differences
    assert [path for path, _, _ in differences if not recipe.resumable(path)] == ["seed"]
    assert recipe.differing(old, recipe.override(old, {"objectives.1": "flops"}))[0][0] == "objectives.1.name"
    assert not recipe.resumable("pooling") and recipe.resumable("pool.kind")


def test_the_schema_describes_every_key() -> None:
    schema = recipe.schema()
    json.dumps(schema)
    assert schema["required"] == ["task", "objectives"]
    assert schema["properties"]["seed"]["description"].startswith("Names every random stream")
    epochs = schema["$defs"]["TrainSettings"]["properties"]["epochs"]
    assert (epochs["minimum"], epochs["description"]) == (1, "Passes over the training rows.")
    undescribed = [
        f"{model.__name__}.{name}"
        for model in models(Recipe)
        for name in model.model_fields
        if name != "kind" and not descriptions(model).get(name)
    ]
    assert undescribed == []


# ---------------------------------------------------------------------------------------------------------- lightness


def test_reading_a_recipe_loads_nothing_heavy() -> None:
    heavy = ["torch", "deap", "sklearn", "moocore", "pymoo", "matplotlib", "scipy", "networkx"]
    code = (
        "import sys; from evonas import recipe\n"
        f"recipe.read({GOOD!r})\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
