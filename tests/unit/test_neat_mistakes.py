"""What a user of NEAT does wrong: each mistake is told with cause, value and cure in a line or two, no traceback."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from evonas import cli

RECIPE = """\
task: {kind: xor}
objectives: [fitness]
encoding: {kind: neat, feed_forward: true}
strategy: {kind: neat, population: 6, generations: 2}
estimator: {kind: population}
"""
OWN = RECIPE.replace("{kind: xor}", "{kind: fitness, function: mine.py:f, inputs: 2, outputs: 1}")
CONFIG = """\
[NEAT]
fitness_criterion = max
fitness_threshold = 3.9
pop_size = 150
[DefaultGenome]
num_inputs = 2
num_outputs = 1
weight_min_value = -30
weight_max_value = 30
"""

Tell = Callable[..., str]


@pytest.fixture
def tell(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tell:
    """What a command that must fail says: at most three lines, one of them the error, and no traceback."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> str:
        capfd.readouterr()
        code = cli.call([command, *arguments])
        told = capfd.readouterr().err
        errors = told[max(told.find("error: "), 0) :]
        assert code in (2, 65, 70) and errors.startswith("error: "), (code, told)
        assert "Traceback" not in told and "evonas failed" not in told
        assert len(errors.splitlines()) <= 3
        return errors

    return run


def of_recipe(tell: Tell, changes: tuple[str, ...], recipe: str = RECIPE, command: str = "run") -> str:
    """What a recipe with these changes is told."""
    Path("r.yaml").write_text(recipe)
    return tell(command, "r.yaml", *(word for change in changes for word in ("--set", change)))


def of_function(tell: Tell, body: str, *changes: str, takes: str = "population") -> str:
    """What a run of a user's own fitness function is told."""
    Path("mine.py").write_text(f"import sys\nimport numpy as np\ndef f(n):\n    {body}\n")
    return of_recipe(tell, (f"task.takes={takes}", *changes), OWN)


# ------------------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("encoding.activation.default=sigmoyd", "'sigmoyd' is not known; did you mean 'sigmoid'"),
        ("encoding.activation={default: tanh, options: [rleu]}", "'rleu' is not known; did you mean 'relu'"),
        ("encoding.activation={default: tanh, options: []}", "must be a list of at least 1"),
        ("encoding.aggregation.default=summ", "'summ' is not known; did you mean 'sum'"),
        ("encoding.activtion.default=tanh", "encoding.activtion: not known; did you mean 'activation'"),
        ("strategy.speciaton.threshold=3", "strategy.speciaton: not known; did you mean 'speciation'"),
        ("encoding.structure.add_node=-0.1", "add_node: -0.1 is not allowed: must be from 0 to 1"),
        ("encoding.weight={min: 5, max: -5}", "min 5 is not below max -5"),
        ("encoding.weight.power=-1", "power: -1 is not allowed: must be at least 0"),
        ("encoding.initial_connection=ful", "'ful' is not known; did you mean 'full'"),
        ("strategy.speciation={threshold: 0}", "threshold: 0 is not allowed: must be more than 0"),
        ("strategy.population=1", "population: 1 is not allowed: must be from 2"),
        ("strategy.goal={fitness: high}", "goal.fitness: 'high' is not allowed: must be a number"),
        ("strategy.goal={fitness: .nan}", "goal: .nan is not allowed"),
        ("store.individuals=some", "'some' is not known; known: auto, all, champions"),
        ("objectives=[fitnes]", "'fitnes' is not known; did you mean 'fitness'"),
        ("objectives=[fitness, latency]", "'latency' needs a trained network"),
        ("estimator.kind=train", "'fitness' is recorded by estimator 'population' only"),
        ("estimator.threads=-1", "threads -1 is not allowed: give auto or 1 to 1024"),
        ("task.kind=xr", "did you mean 'xor'"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(tell: Tell, change: str, says: str) -> None:
    assert says in of_recipe(tell, (change,))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("task.kind=cartpole", "estimator.kind=train", "objectives=[error]"), "is played, not trained on"),
        (("task.kind=cartpole", "objectives=[accuracy]"), "'accuracy' is for rows of data, the task is played"),
        (("task.kind=cartpole", "estimator.fine_tune={steps: 3}"), "fine_tune needs training rows"),
        (("encoding.feed_forward=false", "estimator.fine_tune={steps: 3}"), "fine_tune needs networks without cycles"),
        (("task.kind=parity", "task.bits=40"), "bits: 40 is not allowed"),
        (("task.kind=diabetes", "estimator.fitness=accuracy"), "fitness: accuracy is for classes"),
        (("encoding.kind=dag",), "'population' takes direct genomes, encoding is 'dag'"),
    ],
)
def test_sections_that_do_not_go_together_are_told(tell: Tell, changes: tuple[str, ...], says: str) -> None:
    assert says in of_recipe(tell, changes)


def test_cuda_without_a_gpu_is_told(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no GPU here: set it to auto or cpu" in of_recipe(tell, ("estimator.device=cuda",))


def test_a_goal_that_nothing_measures_is_told_after_one_generation(tell: Tell) -> None:
    told = of_recipe(tell, ("strategy.goal={fitnes: 3.9}", "strategy.generations=1000"))
    assert "strategy.goal" in told and "'fitnes'" in told and "did you mean 'fitness'" in told


def test_a_genome_of_other_sizes_is_told(tell: Tell) -> None:
    genome = {"encoding": "neat", "format": 1, "inputs": 2, "outputs": 1, "feed_forward": True}
    genes = {"nodes": [[2, 0.0, 1.0, "tanh", "sum"]], "links": [[3, 0, 2, 1.0, True]]}
    Path("g.json").write_text(json.dumps(genome | genes))
    told = of_recipe(tell, ("task={kind: parity, bits: 3}", "encoding.initial=[g.json]"))
    assert "it has 2 inputs and 1 outputs, but the task has 3 and 1" in told
    assert "cannot read the genome file" in of_recipe(tell, ("encoding.initial=[none.json]",))


# ---------------------------------------------------------------------------------------------- the user's function


def test_a_missing_file_is_told_before_the_run(tell: Tell) -> None:
    for command in ("check", "run"):
        assert re.search(r"task\.function: no file .*mine\.py", of_recipe(tell, (), OWN, command))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return np.ones(7)", "fitness has shape (7,) for 6 networks: return an array of shape (6,)"),
        ("return 1.0", "fitness has shape () for 6 networks"),
        ("return np.ones((len(n), 2))", "fitness has shape (6, 2) for 6 networks"),
        ("return None", "fitness is NoneType, not numbers"),
        ("return 'good'", "fitness is str, not numbers"),
        ("return ['good'] * len(n)", "fitness is list, not numbers"),
        ("return np.ones(len(n), complex)", "fitness is ndarray, not numbers"),
        ("return {'fitness': {'a': 1}}", "fitness is dict, not numbers"),
        ("return {'reward': np.ones(len(n))}", "objective 'fitness' is not what the task measures, which is reward"),
        ("return {}", "objective 'fitness' is not what the task measures, which is nothing"),
        ("return 1 / 0", "raised ZeroDivisionError: division by zero, at "),
        ("sys.exit(3)", "raised SystemExit: 3, at "),
        ("raise MemoryError", "raised MemoryError, at "),
        ("return n([[1.0, 2.0, 3.0]])[:, 0, 0]", "networks take 2 inputs, x has shape (1, 3)"),
        ("raise type('Odd', (Exception,), {'__str__': lambda e: 1 / 0})", "raised Odd: its message cannot be shown"),
        ("return n.step()", "TypeError"),
    ],
)
def test_a_function_that_goes_wrong_is_named_with_its_line(tell: Tell, body: str, says: str) -> None:
    told = of_function(tell, body)
    assert says in told
    assert "raised" not in told or "mine.py, line 4" in told


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_generation_without_one_finite_fitness_ends_the_run(tell: Tell, value: str) -> None:
    told = of_function(tell, f"return np.full(len(n), np.{value})")
    assert f"all 6 networks of generation 1 failed, the first with: objective 'fitness' is {value}" in told


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 'x'", "returned fitness 'x' (str), not a number, for every network"),
        ("raise KeyError('a')", "raised KeyError: 'a', at "),
        ("return np.nan", "all 6 networks of generation 1 failed"),
    ],
)
def test_a_function_of_one_network_that_always_goes_wrong_ends_the_run(tell: Tell, body: str, says: str) -> None:
    assert says in of_function(tell, body, takes="network")


def test_one_network_without_a_finite_fitness_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas import recipe, start

    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import numpy as np\ndef f(n):\n    return np.where(np.arange(len(n)) == 2, np.nan, np.arange(len(n)))\n"
    )
    Path("r.yaml").write_text(OWN)
    with start(recipe.read("r.yaml", {"store.individuals": "all"})) as run:
        failed = [row for row in run.individuals() if row.status == "failed"]
        assert [row.id for row in failed] == [2, 8]
        assert failed[0].reason == "objective 'fitness' is nan"
        assert len(run.generations()) == 2


def test_a_fitness_too_large_to_reckon_with_fails(tell: Tell) -> None:
    assert "'fitness' is -1e+308, and 1e+100 is the most" in of_function(tell, "return np.full(len(n), -1e308)")


# ----------------------------------------------------------------------------------------------------- dying out


DYING = "f.calls = getattr(f, 'calls', 0) + 1; return np.full(len(n), 1.0 if f.calls < 2 else np.nan)"


def test_a_population_that_dies_out_stops_where_the_recipe_says_so(tell: Tell) -> None:
    told = of_function(tell, DYING, "strategy.population=2", "strategy.extinct=stop", "strategy.generations=5")
    assert "the population died out after generation 2: not one of its networks could be estimated" in told
    assert "set strategy.extinct to 'restart'" in told
    assert "the population died out after generation 2" in tell("resume", "r")


def test_a_population_that_dies_out_begins_anew_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas import recipe, start

    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"import numpy as np\ndef f(n):\n    {DYING}\n")
    Path("r.yaml").write_text(OWN)
    with start(recipe.read("r.yaml", {"strategy.population": "2", "strategy.generations": "3"})) as run:
        assert [row["failed"] for row in run.generations()] == [0, 2, 2]


# ------------------------------------------------------------------------------------------------- environments


def test_a_missing_gymnasium_is_told_with_what_to_install(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for command in ("check", "run"):
        told = of_recipe(tell, ("task={kind: gymnasium, environment: CartPole-v1}",), command=command)
        assert "pip install 'evonas[control]'" in told


def test_a_misspelt_environment_is_told_once_with_the_nearest(tell: Tell) -> None:
    pytest.importorskip("gymnasium", reason="needs pip install 'evonas[control]'")
    told = of_recipe(tell, ("task={kind: gymnasium, environment: CartPol-v1}",))
    assert "did you mean 'CartPole-v1'" in told and told.lower().count("did you mean") == 1


# ------------------------------------------------------------------------------------------ neat-python's files


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("pop_size = 150", "pop_size = many", "[NEAT] pop_size = 'many' is not allowed: write a whole number from 2"),
        ("pop_size = 150", "pop_size", "line 4: 'pop_size' is no `key = value`"),
        ("pop_size = 150", "pop_size = 1", "write a whole number from 2 to 10000000"),
        ("num_inputs = 2", "", "[DefaultGenome] num_inputs is missing: add it"),
        ("num_inputs = 2", "num_inputs = 2\nnum_inputs = 3", "num_inputs is given twice in [DefaultGenome]"),
        ("max_value = 30", "max_value = -40", "weight_min_value -30 is above weight_max_value -40: exchange them"),
        ("max_value = 30", "max_value = 30\nweight_mutate_rate = -1", "write a number of at least 0"),
        ("max_value = 30", "max_value = 30\ninitial_connection = foo", "'foo' is not known"),
        ("[NEAT]", "", "stands before any section: begin with [NEAT]"),
        (CONFIG, "", "no section [NEAT] or [DefaultGenome] (found: none)"),
        (CONFIG, "\0\1\2", "before any section"),
    ],
)
def test_a_broken_configuration_is_told_by_section_and_key(tell: Tell, old: str, new: str, says: str) -> None:
    Path("config").write_text(CONFIG.replace(old, new, 1))
    assert says in tell("convert", "config", "-o", "out.yaml")
    assert not Path("out.yaml").exists()


# ------------------------------------------------------------------------------------------------------- the test


def test_a_test_measures_and_repeats_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas import recipe, start
    from evonas.run import test as final_test

    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    for objectives, sizes in (("[fitness]", set()), ("[fitness, links]", {"links"})):
        with start(recipe.read("r.yaml", {"objectives": objectives})) as run:
            folder = run.folder
        with final_test(folder) as run:
            tested = next(row.tested for row in run.front())
        assert set(tested) == {"fitness", "loss", "error", "accuracy"} | sizes
