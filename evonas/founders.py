"""Founders: the genomes that `encoding.initial` names, and the weights that some of them bring.

An entry is the name of a zoo genome, a genome file, a user's module as `file.py:object` or `package.module:object`, or
a run's front as `run:NAME` (one individual of it: `run:NAME/ID`; a run elsewhere: `run:./path/to/run`). Layer graphs
and cells from modules and runs bring their weights, which count where the estimator inherits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas import imported, zoo
from evonas.core import (
    DataError,
    Encoding,
    EvonasError,
    Genome,
    Json,
    RecipeError,
    dumps,
    lend_global_streams,
    nearest,
    seed_of,
)
from evonas.encoding.cell import CellEncoding, CellGenome
from evonas.encoding.dag import DagEncoding
from evonas.encoding.genes import DagGenome
from evonas.store import Store

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Founder", "Reader", "Settled", "brings_weights", "settled_weights"]


@dataclass(frozen=True)
class Founder:
    """A first genome: the entry that named it, and its network's weights as safetensors bytes, if it brings some."""

    source: str
    genome: Genome
    weights: bytes | None = None


@dataclass(frozen=True)
class Settled:
    """A founder as a run folder keeps it: what it was read from is not needed again.

    `key` is that of its genome with the run's marks, under which the weights with the SHA-256 `weights` are named."""

    source: str
    genome: Json
    key: str
    weights: str | None

    def to_json(self) -> Json:
        return {"source": self.source, "genome": self.genome, "key": self.key, "weights": self.weights}

    @staticmethod
    def from_json(data: Json) -> Settled:
        return Settled(data["source"], data["genome"], data["key"], data["weights"])


@dataclass(frozen=True)
class Reader:
    """Reads founders for one search.

    `runs` is the folder where runs are found by name, `seed` the recipe's: a module that draws its weights gets a
    stream named by it. With `weights` the founders bring theirs. `task` is the recipe's section: weights that were
    trained on the same data divided otherwise would know rows that are kept apart here, and are refused."""

    encoding: Encoding
    runs: Path
    seed: int
    task: Mapping[str, Json]
    weights: bool = False

    def read(self, entry: str) -> tuple[Founder, ...]:
        """The founders that an entry of `encoding.initial` names. Raises RecipeError or DataError naming the entry,
        where there are none such, or where they do not fit this search."""
        if not brings_weights(entry):
            return (Founder(entry, zoo.load(entry, self.encoding)),)
        try:
            return tuple(self._of_run(entry)) if entry.startswith(_RUN) else (self._of_module(entry),)
        except EvonasError as error:
            raise type(error)(f"encoding.initial: {entry!r}: {error}") from error

    # --------------------------------------------------------------------------------------------------------- runs

    def _of_run(self, entry: str) -> Iterator[Founder]:
        folder, id = self._found(entry.removeprefix(_RUN))
        with Store.open(folder) as store:
            self._check_shape(store)
            ids = store.front() if id is None else [id]
            if not ids:
                raise RecipeError(f"the run has no front yet: let it run first: evonas resume {folder.name}")
            for one in ids:
                genome = self.encoding.from_json(store.genome_json(one))
                self.encoding.check(genome)
                source = entry if id is not None else f"{entry}/{one}"
                founder = Founder(source, genome, self._weights_of(store, one, genome))
                yield self._checked(founder)

    def _found(self, where: str) -> tuple[Path, int | None]:
        """The run's folder, and the individual if one is named: a number at the end that is no run's own name."""
        path = Path(where).expanduser()
        by_path = path.is_absolute() or where.startswith(".")
        folder = path if by_path else self.runs / path
        for found, id in ((folder, None), (folder.parent, folder.name)):
            if (id is None or id.isdigit()) and (found / "run.sqlite").is_file() and found != self.runs:
                return found, None if id is None else int(id)
        if by_path:
            raise RecipeError(f"no run in {folder}: write run:./path/to/run, or run:./path/to/run/ID")
        known = sorted(one.parent.name for one in self.runs.glob("*/run.sqlite")) if self.runs.is_dir() else []
        name = where.partition("/")[0]
        hint = nearest(name, known[:30]) if known else "it holds none yet; a run elsewhere is run:./path/to/run"
        raise RecipeError(f"no run {name!r} in {self.runs}; {hint}")

    def _check_shape(self, store: Store) -> None:
        theirs = store.about["task"]["input"], store.about["task"]["outputs"]
        space: Any = self.encoding
        if not isinstance(space, (DagEncoding, CellEncoding)):  # direct genomes say their ends themselves
            return
        ours = list(space.input_shape), space.outputs
        if theirs != ours:
            raise RecipeError(
                f"its networks take {theirs[0]} and give {theirs[1]} outputs, this task has {ours[0]} and {ours[1]}: "
                f"name a run of this shape, or a genome file (evonas export {store.folder.name} ID writes one)"
            )

    def _weights_of(self, store: Store, id: int, genome: Genome) -> bytes | None:
        """The weights of the search: those of a last training have seen the rows that are kept apart here."""
        estimate = store.estimate(id)
        trained = isinstance(genome, (DagGenome, CellGenome))
        if not self.weights or not trained or estimate is None or estimate.weights is None:
            return None
        self._check_rows(store)
        if not store.has_weights(estimate.weights):
            raise RecipeError(
                f"the weights of individual {id} were not kept: name one of the front, "
                f"{', '.join(map(str, store.front()[:12]))}, or set estimator.inherit: none"
            )
        return store.weights(estimate.weights)

    def _check_rows(self, store: Store) -> None:
        theirs, seed = store.recipe["task"], store.recipe["seed"]
        divided = {"seed": seed, **{key: theirs.get(key) for key in _DIVISION}}
        here = {"seed": self.seed, **{key: self.task.get(key) for key in _DIVISION}}
        if _data(theirs) == _data(self.task) and divided != here:
            cure = ", ".join(f"{key}: {dumps(value)}" for key, value in divided.items() if value != here[key])
            raise RecipeError(
                "its weights know rows that are kept apart here, since it divides the same data otherwise: set "
                f"{cure} as there, or estimator.inherit: none"
            )

    # ------------------------------------------------------------------------------------------------------ modules

    def _of_module(self, entry: str) -> Founder:
        if not isinstance(self.encoding, DagEncoding):
            raise RecipeError(f"a module becomes a layer graph, not {self.encoding.name!r}: set encoding.kind: dag")
        from evonas.phenotype import network
        from evonas.phenotype.tracing import traced

        found = traced(self._module(entry), self.encoding.input_shape)
        if found.outputs != self.encoding.outputs:
            raise DataError(
                f"the module has {found.outputs} outputs, this task {self.encoding.outputs}: give its last Linear "
                f"{self.encoding.outputs}"
            )
        self.encoding.check(found.genome)
        if not self.weights:
            return Founder(entry, found.genome)
        built = network.build(self.encoding.decode(found.genome))
        network.load(built, found.tensors)
        return Founder(entry, found.genome, network.to_bytes(built))

    def _module(self, entry: str) -> nn.Module:
        """The module that an entry names, or that the function or class of that name gives; what it draws comes from a
        stream of its own, so that the same recipe gives the same founder."""
        import torch

        with _lent(self.seed, f"import {entry}"):
            found = imported.load(entry)
        if not isinstance(found, torch.nn.Module):
            with _lent(self.seed, f"call {entry}"):
                found = _called(found)
        if not isinstance(found, torch.nn.Module):
            raise RecipeError(f"it gives a {type(found).__name__}: name an nn.Module, or what gives one when called")
        return found

    # ------------------------------------------------------------------------------------------------------ weights

    def _checked(self, founder: Founder) -> Founder:
        """The founder, if its weights are those of its network here."""
        if founder.weights is not None:
            from evonas.phenotype import network

            built = network.build(self.encoding.decode(founder.genome))
            setting = "skeleton" if isinstance(founder.genome, CellGenome) else "edge_norm"
            try:
                network.load(built, network.from_bytes(founder.weights))
            except DataError as error:
                raise DataError(
                    f"{founder.source}: {error}; encoding.{setting} and the data must be as in that run"
                ) from None
        return founder


_RUN = "run:"
_DIVISION = ("validation", "test")
"""Keys of a task that, with the seed, decide which rows are kept apart; `limit` takes away training rows alone."""


def _data(task: Mapping[str, Json]) -> Json:
    """What says which data a task has."""
    return {key: value for key, value in task.items() if key not in (*_DIVISION, "limit", "max_bytes")}


def brings_weights(entry: str) -> bool:
    """Whether an entry names a run or a module, and no genome alone."""
    return entry.startswith(_RUN) or imported.is_path(entry)


@contextmanager
def _lent(seed: int, purpose: str) -> Iterator[None]:
    """Lends named streams to code that draws from the global ones of random, numpy and torch."""
    import torch

    with torch.random.fork_rng(devices=[]), lend_global_streams(seed, purpose):
        torch.manual_seed(seed_of(seed, purpose))
        yield


def _called(function: Any) -> Any:
    try:
        return function()
    except Exception as error:
        line = (str(error).strip() or "no message").splitlines()[0][:160]
        raise RecipeError(f"calling it without arguments failed: {type(error).__name__}: {line}") from error


def settled_weights(founder: Founder, genome: Genome, encoding: Encoding) -> bytes | None:
    """The founder's weights as its genome has them in this run, with the run's marks; None where it brings none."""
    if isinstance(founder.genome, CellGenome):
        return founder.weights  # places have their marks in every run
    if founder.weights is None or not isinstance(founder.genome, DagGenome) or not isinstance(genome, DagGenome):
        return None
    from evonas.phenotype import network

    marks = zoo.renamed(founder.genome, genome)
    tensors, moments = network.parts_from_bytes(founder.weights)
    built = network.build(encoding.decode(genome))
    network.load(built, _renamed(tensors, marks))
    return network.to_bytes(built, {state: _renamed(named, marks) for state, named in moments.items()})


def _renamed(named: Mapping[str, Tensor], marks: Mapping[int, int]) -> dict[str, Tensor]:
    return {_GENE.sub(lambda gene: f"{gene[1]}{marks[int(gene[2])]}.", name): value for name, value in named.items()}


_GENE = re.compile(r"^(layer|edge)(\d+)\.")
