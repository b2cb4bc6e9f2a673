"""Rates of the store, printed: births and estimates in batches, single commits, opening, reading, digest.

python tests/benchmark/store.py [individuals] [genes per genome]"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonas.core import Edit, Estimate, Individual, Outcome, Species, State, dumps
from evonas.marks import Marks
from evonas.store import Store

BATCH = 1000
SINGLES = 500


@dataclass(frozen=True)
class Stub:
    """A genome of a number of equal genes; 38 of them make the 2.4 kB that a layer graph of the zoo has."""

    number: int
    genes: int

    @property
    def key(self) -> str:
        return f"{self.number:032x}"

    @property
    def text(self) -> str:
        gene = {"mark": self.number, "op": "conv", "kernel": 3, "channels": 16, "stride": 1}
        return dumps({"number": self.number, "genes": [gene] * self.genes})

    @staticmethod
    def from_json(data: Any) -> Stub:
        return Stub(data["number"], len(data["genes"]))


def batch(generation: int, genes: int, size: int = BATCH) -> tuple[list[Individual], list[Outcome], State]:
    """One generation's individuals, outcomes and state."""
    first = generation * BATCH
    edit = Edit("add_layer", (3, 7), (12, 13), {"op": "conv", "channels": 16})
    born = [
        Individual(id, Stub(id, genes), (max(0, id - BATCH),), (edit,), generation) for id in range(first, first + size)
    ]
    cost = {"seconds": 0.25, "epochs": 3, "samples": 3000}
    scored = [Estimate(one.id, "ok", {"error": 1 / (one.id + 2), "params": one.id * 7}, cost=cost) for one in born]
    species = Species(1, born[0], tuple(one.id for one in born), 1, 0.5)
    estimates = {one.id: one for one in scored}
    front = tuple(range(first, first + 50))
    state = State(generation + 1, first + size, tuple(born), estimates, front, (species,), Marks(), first + size)
    return born, [Outcome(one) for one in scored], state


@contextmanager
def timed(name: str, count: int = 1) -> Iterator[None]:
    """Prints wall time; for several items also the rate, and the rate per CPU second, which a busy machine spares."""
    begin, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    rates = f"{count / seconds:>12,.0f} /s{count / used:>12,.0f} / CPU s" if count > 1 else ""
    print(f"{name:<48}{seconds * 1e3:>10.1f} ms{rates}")


def repeat(name: str, count: int, call: Callable[[int], object]) -> None:
    begin = time.perf_counter()
    for i in range(count):
        call(i)
    print(f"{name:<48}{(time.perf_counter() - begin) / count * 1e3:>10.3f} ms each")


def latency(store: Store, outcomes: list[Outcome]) -> float:
    """Median seconds of a commit of one estimate, one every 10 ms."""
    seconds = []
    for outcome in outcomes:
        time.sleep(0.01)
        begin = time.perf_counter()
        store.commit([outcome])
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@contextmanager
def readers(folder: Path, count: int) -> Iterator[None]:
    """Processes that look at the run as a live page does."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=watch, args=(folder, i / count / 2), daemon=True) for i in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def watch(folder: Path, delay: float) -> None:
    time.sleep(delay)
    with Store.open(folder) as store:
        while True:
            store.generations()
            store.estimates(store.front())
            time.sleep(0.5)


def main(individuals: int, genes: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        batches = [batch(i, genes) for i in range(individuals // BATCH)]
        with Store.create(folder, {"name": "run"}, {}) as store:
            with timed(f"births and estimates, batches of {BATCH}", len(batches) * BATCH):
                for born, outcomes, state in batches:
                    store.lay(born)
                    store.commit(outcomes)
                    store.commit_generation(state, {"hypervolume": 0.5})
            born, outcomes, _ = batch(len(batches), genes, SINGLES)
            store.lay(born)
            alone = latency(store, outcomes[:250])
            with readers(folder, 10):
                watched = latency(store, outcomes[250:])
            print(f"{'one estimate in a commit of its own, median':<48}{alone * 1e3:>10.3f} ms")
            slower = f"x {watched / alone:.2f}"
            print(f"{'the same while 10 readers look twice a second':<48}{watched * 1e3:>10.3f} ms {slower}")
            repeat("1 MB of weights with its estimate", 10, lambda i: store._save([bytes([i]) * 2**20]))
            begin = time.perf_counter()
        print(f"{'closing':<48}{(time.perf_counter() - begin) * 1e3:>10.1f} ms")
        print(f"{'run.sqlite':<48}{(folder / 'run.sqlite').stat().st_size / 1e6:>10.1f} MB")
        with timed("opening for reading"):
            store = Store.open(folder)
        with store:
            with timed("individuals with genomes", individuals):
                store.individuals(None, Stub.from_json)
            with timed("estimates", individuals):
                store.estimates()
            with timed("an estimate that is not there yet"):
                store.estimate(individuals * 2)
            with timed("newest state"):
                store.load_state(Stub.from_json)
            with timed("digest"):
                store.digest()
        with timed("opening for writing (every row checked)"):
            store = Store.open(folder, write=True)
        store.close()


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], "10000", "38"][:2]))
