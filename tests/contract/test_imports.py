"""The rooms: a module imports only from those above it, and heavy libraries load only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "evonas"

ORDER = [
    "core", "limits", "shapes", "imported", "validation", "native", "processes", "arrays", "files", "cohort",
    "agreement", "pareto", "marks", "encoding.plan", "encoding.genes", "encoding.decode", "encoding.channels",
    "encoding.morph", "encoding.dag", "encoding.variation", "encoding.lowering", "encoding.cell",
    "encoding.population", "encoding.hashing", "encoding.breeding", "encoding.neat", "encoding", "zoo", "species",
    "operators", "phenotype.graph", "phenotype.network", "phenotype.importance", "phenotype.refit",
    "phenotype.inherit", "phenotype.reading", "phenotype.tracing", "phenotype.deployed", "phenotype.onnx",
    "phenotype.export", "phenotype.merged", "phenotype.population", "phenotype.population_numba",
    "phenotype.population_torch", "phenotype.tuning", "objective", "strategy", "strategy.problem", "strategy.window",
    "strategy.prediction", "strategy.proposals", "strategy.random", "strategy.nsga2", "strategy.neat",
    "strategy.lemonade", "strategy.regularized", "strategy.hill_climbing", "strategy.halving", "strategy.grid",
    "strategy.local_search", "strategy.mu_plus_lambda", "strategy.nsga3", "strategy.bayesian", "strategy.surrogate",
    "strategy.lessons", "strategy.lstm", "strategy.controller", "strategy.reinforce", "strategy.ppo",
    "strategy.q_learning", "strategy.mcts", "strategy.pnas", "neat_python", "task.data", "task.table", "task.images",
    "task.toys", "task.poles", "task.own", "task.control", "task.benchmark", "task", "estimate", "estimate.data",
    "estimate.heritage", "estimate.stopping", "estimate.fidelity", "estimate.train", "estimate.lookup",
    "estimate.population", "estimate.worker", "estimate.preload", "pool", "seat", "cluster", "yaml", "store",
    "tracking", "recipe", "studies", "studies.looks", "studies.statistics", "report.progress", "report.layout",
    "report.rails", "report.tables", "report.upkeep", "report.figures", "report.graphs", "report.cards",
    "report.cells", "report.drawing", "report.views", "report.plots", "report.pictures", "report.frames",
    "report.comparison", "report.studies", "report.html", "report.card", "report.document", "results", "retention",
    "founders", "run", "verify", "salvage", "repair", "simulate", "studies.findings", "studies.ledger",
    "studies.workers", "studies.engine", "preview", "report.live", "dashboard.guard", "dashboard.shelf",
    "dashboard.parts", "dashboard.network", "dashboard.runs", "dashboard.front", "dashboard.species",
    "dashboard.individual", "dashboard.lineage", "dashboard.compare", "dashboard.log", "dashboard.downloads",
    "dashboard.app", "dashboard.server", "cli", "__main__",
]  # fmt: skip
"""From the core to the command line; what is not listed belongs nowhere yet."""

LAZY = {
    ("encoding", "encoding.neat"),
    ("strategy", "strategy.nsga2"),
    ("strategy", "strategy.neat"),
    ("strategy", "strategy.lemonade"),
    ("strategy", "strategy.regularized"),
    ("strategy", "strategy.hill_climbing"),
    ("strategy", "strategy.random"),
    ("task", "task.images"),
    ("task", "task.table"),
    ("task", "task.toys"),
    ("task", "task.poles"),
    ("task", "task.own"),
    ("task", "task.control"),
    ("task", "task.benchmark"),
    ("estimate", "estimate.data"),
    ("estimate", "estimate.train"),
    ("estimate", "estimate.lookup"),
    ("estimate", "estimate.population"),
    ("pool", "cluster"),
}
"""A room's table builds its entries: it imports them inside a function, when one is asked for."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """Modules of evonas that a file imports anywhere, but for type checking alone."""
    found: set[str] = set()
    for node in _live(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "evonas" or not name.startswith("evonas."):
                continue
            inner = name.removeprefix("evonas.")
            found.add(inner if inner in known else inner.rpartition(".")[0])
    return found - {""}


def _live(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        nodes += [child, *_live(child)]
    return nodes


def test_every_module_has_its_place() -> None:
    empty = {name for name, path in modules().items() if not path.read_text().strip()}
    assert set(modules()) - empty - {""} == set(ORDER) - empty


def test_no_arrow_points_upward() -> None:
    known = set(modules())
    place = {name: i for i, name in enumerate(ORDER)}
    upward = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(path, known)
        if name in place and other in place and place[other] >= place[name] and (name, other) not in LAZY
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import evonas", ("torch", "deap", "numpy", "sklearn", "matplotlib")),
        ("import evonas.cli", ("torch", "deap", "numpy", "sklearn", "matplotlib", "moocore", "pymoo", "numba")),
        ("import evonas.recipe", ("torch", "deap", "numpy", "sklearn", "matplotlib", "moocore", "pymoo", "numba")),
    ],
)
def test_light_modules_stay_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}; import sys; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


STEPS = """
import sys, torch
from evonas.estimate import Optimizer
from evonas.estimate.train import optimiser
for kind in ("sgd", "adamw"):
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser(layer, Optimizer(kind=kind), torch.device("cpu")).step()
    print("torch._dynamo" in sys.modules)
"""


def test_a_training_does_without_torchs_compiler() -> None:
    """Which torch's own optimisers import at their first step; it takes as long as torch itself."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_only_operators_imports_deap() -> None:
    assert [name for name, path in modules().items() if "deap" in _libraries(path)] == ["operators"]


def test_nothing_unpickles() -> None:
    assert [name for name, path in modules().items() if {"pickle", "dill", "cloudpickle"} & _libraries(path)] == []


def _libraries(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
