"""evonas evolves neural network architectures and hands back a Pareto front of trained PyTorch networks.

    import evonas

    run = evonas.start("examples/digits.yaml")   # or evonas.open("runs/digits"), evonas.resume("runs/digits")
    best = run.front()[0]
    network = run.network(best.id)               # a trained torch.nn.Module

Nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.core import EvonasError
    from evonas.results import Run
    from evonas.run import list_runs, open, resume, start, test
    from evonas.studies.engine import study

__all__ = ["EvonasError", "Run", "list_runs", "open", "resume", "start", "study", "test"]

_HOMES = {
    "EvonasError": "evonas.core",
    "Run": "evonas.results",
    "list_runs": "evonas.run",
    "open": "evonas.run",
    "resume": "evonas.run",
    "start": "evonas.run",
    "study": "evonas.studies.engine",
    "test": "evonas.run",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"evonas has no {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
