"""What eats hostile files: a process of its own with a limit on memory and on time, where loading is watched.

    python -m tests.faults.eater KIND SEED BYTES

mutates real samples of a kind until so many bytes were changed, and prints what it met as JSON. An error of evonas is
how a file should be refused; anything else is told with what was loaded."""

from __future__ import annotations

import base64
import json
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from evonas.core import EvonasError

SECONDS, PATIENCE = 5, 120
ROOM = 1_000_000_000
"""Limits of one file: seconds of computing, seconds until a wait counts as a hang (on a machine that does other things,
too), and bytes beyond what the process has when it begins."""

ROOT = Path(__file__).resolve().parents[2]
Loader = Callable[[bytes, Path], None]


# --------------------------------------------------------------------------------------------------------- the guard

_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "exec",
    "socket.connect", "socket.getaddrinfo", "shutil.rmtree", "ctypes.dlopen",
)  # fmt: skip
_OURS = ("evonas", "tests")


class Guard:
    """An audit hook that is deaf until it is told to listen; then code, processes and addresses are noted."""

    def __init__(self) -> None:
        self.listening = False
        self.heard: list[str] = []
        self._known = frozenset[str]()
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hears meanwhile."""
        self.heard, self._known, self.listening = [], frozenset(sys.modules), True
        try:
            yield
        finally:
            self.listening = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening:
            return
        if event in _FORBIDDEN and not self._is_import(event):
            self.heard.append(f"{event} {str(arguments)[:200]}")
        if event == "import" and self._is_foreign(str(arguments[0])):
            self.heard.append(f"import {arguments[0]}")

    def _is_import(self, event: str) -> bool:
        """A module that is imported runs its code, too: which module is asked by its own event."""
        return event == "exec" and any("importlib" in frame for frame in _frames())

    def _is_foreign(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top not in {name.partition(".")[0] for name in self._known} and top not in sys.stdlib_module_names


def _frames() -> Iterator[str]:
    frame = sys._getframe()
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]


class Overtime(BaseException):
    """A file took longer than SECONDS."""


def _late(*_: object) -> None:
    raise Overtime


def confine() -> None:
    """From here on this process gets no more than ROOM beside what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _late)
    signal.signal(signal.SIGPROF, _late)


def eaten(loader: Loader, data: bytes, folder: Path, guard: Guard) -> str:
    """What is wrong with how a file was loaded; empty where it was loaded or refused as it should be."""
    fault = ""
    signal.alarm(PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with guard.watching(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader(data, folder)
    except EvonasError as error:
        fault = _poor(error)
    except Overtime:
        fault = f"took more than {SECONDS} s\n{traceback.format_exc(limit=-6)}"
    except BaseException as error:
        fault = f"{type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc(limit=-6)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return "\n".join(filter(None, (fault, *guard.heard)))


def _poor(error: EvonasError) -> str:
    """What is wrong with a refusal: it must be short, printable, and say by its code that a file is bad."""
    text = str(error)
    if error.exit_code not in (2, 65, 74) or not text or len(text) > 4000:
        return f"refused with code {error.exit_code} and {len(text)} characters: {text[:300]}"
    return ""


# ------------------------------------------------------------------------------------------------------- the loaders


def genome(data: bytes, folder: Path) -> None:
    """A genome file, as `evonas genome FILE` reads and draws it."""
    from evonas import zoo
    from evonas.report import drawing, tables

    path = folder / "genome.json"
    path.write_bytes(data)
    entry, found, plan = zoo.decoded(path)
    assert found.key and plan.params >= 0 and len(drawing.text(plan)) < 10_000_000
    tables.to_markdown(tables.zoo([entry]))


def recipe(data: bytes, folder: Path) -> None:
    """A recipe, as `evonas check` reads it; what is sound is written and read again."""
    from evonas import recipe as recipes

    path = folder / "recipe.yaml"
    path.write_bytes(data)
    found = recipes.read(path)
    assert recipes.read(recipes.to_yaml(found)) == found
    recipes.permit(found)


def study(data: bytes, folder: Path) -> None:
    """A study, as `evonas study` reads it."""
    from evonas import studies

    path = folder / "study.yaml"
    path.write_bytes(data)
    studies.read(path)


def config(data: bytes, folder: Path) -> None:
    """A configuration file of neat-python, as `evonas convert` reads it."""
    from evonas.neat_python import convert

    path = folder / "config.ini"
    path.write_bytes(data)
    convert(path)


def weights(data: bytes, folder: Path) -> None:
    """Weights of a network, and everything else that is kept in their format."""
    from evonas import arrays, cohort
    from evonas.encoding.population import Population
    from evonas.phenotype import network

    refused: EvonasError | None = None
    for read in (_into_network, network.bare, arrays.from_bytes, Population.from_bytes, cohort.scores_from_bytes,
                 lambda content: cohort.cohort_from_bytes(content, Population.from_bytes)):  # fmt: skip
        try:
            read(data)
        except EvonasError as error:
            refused = error if not _poor(error) else refused
    if refused is not None:
        raise refused


def _into_network(data: bytes) -> None:
    from evonas.phenotype import network

    network.load(_network(), network.from_bytes(data))


def _network() -> Any:
    from evonas.encoding import decode
    from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
    from evonas.phenotype import network

    layers = [LayerGene(0, "input"), LayerGene(1, "output"), LayerGene(2, "conv", 4, 3, norm="batch")]
    plan = decode.decode(DagGenome.of(layers, [EdgeGene(3, 0, 2), EdgeGene(4, 2, 1)]), (1, 8, 8), 3)
    return network.build(plan, seed=1)


def database(data: bytes, folder: Path) -> None:
    """A run's database in a folder of its own, read as `evonas show`, `front`, `species`, `lineage` read it."""
    from evonas import run
    from evonas.report import tables

    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "run.sqlite").write_bytes(data)
    for rest in ("run.sqlite-wal", "run.sqlite-shm", "run.sqlite-journal"):
        (folder / "run" / rest).unlink(missing_ok=True)
    with run.open(folder / "run") as found:
        tables.to_json(tables.runs([found]))
        tables.to_csv(tables.generations(found.generations(), found.objectives))
        rows = found.individuals()
        tables.to_markdown(tables.individuals(rows, found.objectives))
        tables.individuals(found.front(), found.objectives)
        tables.species(found.species(), found.objectives)
        _events = [f"{event['kind']}: {event['text']}" for event in found.events()]
        found.everyone()
        found.state()
        for row in rows[-2:]:
            tables.lineage(found.lineage(row.id), {row.id: found.individual(row.id).edits}, found.objectives)
            found.plan(row.id)


def table(data: bytes, folder: Path) -> None:
    """Rows of a task as CSV."""
    _task(data, folder / "rows.csv", {"kind": "csv", "file": "rows.csv"})


def npz(data: bytes, folder: Path) -> None:
    """Rows of a task as arrays of numpy."""
    _task(data, folder / "rows.npz", {"kind": "npz", "file": "rows.npz", "max_bytes": 100_000_000})


def _task(data: bytes, path: Path, settings: dict[str, Any]) -> None:
    from evonas import recipe as recipes
    from evonas import task

    path.write_bytes(data)
    (path.parent / "task.yaml").write_text(json.dumps({"task": settings, "objectives": ["error"]}))
    task.build(recipes.read(path.parent / "task.yaml").task).load(1)


LOADERS: dict[str, Loader] = {
    one.__name__: one for one in (genome, recipe, study, config, weights, database, table, npz)
}


# ------------------------------------------------------------------------------------------------------- the samples


def samples(kind: str, folder: Path) -> list[bytes]:
    """Real files of a kind; those of other formats are made here."""
    return _MAKERS[kind](folder)


def _genomes(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "genomes").glob("*.json")) if path.stat().st_size < 20_000]


def _recipes(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))]


def _studies(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "examples" / "studies").glob("*.yaml"))]


def _configs(_: Path) -> list[bytes]:
    text = (
        "[NEAT]\nfitness_criterion = max\nfitness_threshold = 3.9\npop_size = 150\nreset_on_extinction = False\n"
        "[DefaultGenome]\nnum_inputs = 2\nnum_outputs = 1\nnum_hidden = 0\nactivation_default = sigmoid\n"
        "feed_forward = True\nconn_add_prob = 0.5\n[DefaultSpeciesSet]\ncompatibility_threshold = 3.0\n"
    )
    return [text.encode()]


def _weights(folder: Path) -> list[bytes]:
    from evonas.phenotype import network

    built = _network()
    moments = {"exp_avg": dict(built.named_parameters())}
    return [network.to_bytes(built), network.to_bytes(built, moments), *_packed(folder)]


def _packed(folder: Path) -> list[bytes]:
    """The populations and scores that a small NEAT run keeps."""
    with closing(sqlite3.connect(_runs(folder)[1])) as db:
        blobs = db.execute("SELECT population, representatives, scores FROM cohorts LIMIT 1").fetchone()
        return [*blobs, *(row[0] for row in db.execute("SELECT scores FROM journal LIMIT 2"))]


def _databases(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in _runs(folder)]


def _runs(folder: Path) -> list[Path]:
    """Databases of a run of layer graphs and of a NEAT run, made once."""
    import evonas

    common: dict[str, Any] = {"pool": {"kind": "serial"}}
    graphs = {"task": {"kind": "iris"}, "objectives": ["params", "depth"], "estimator": {"kind": "lookup"},
              "strategy": {"population": 4, "generations": 2}}  # fmt: skip
    direct = {"task": {"kind": "xor"}, "objectives": ["fitness"], "encoding": {"kind": "neat"},
              "strategy": {"kind": "neat", "population": 10, "generations": 3},
              "estimator": {"kind": "population"}}  # fmt: skip
    runs = folder / "samples"
    for name, one in (("graphs", graphs), ("direct", direct)):
        if not (runs / name).exists():
            evonas.start(one | common, name=name, runs=runs).close()
    return [runs / name / "run.sqlite" for name in ("graphs", "direct")]


def _tables(_: Path) -> list[bytes]:
    rows = [f"{i / 7:.3f},{i % 5},{'abc'[i % 3]}" for i in range(60)]
    return ["\n".join(["width,height,kind", *rows]).encode()]


def _npzs(folder: Path) -> list[bytes]:
    import numpy as np

    path = folder / "sample.npz"
    x = np.arange(240, dtype=np.float32).reshape(60, 4)
    np.savez(path, x=x, y=np.arange(60) % 3)
    plain = path.read_bytes()
    np.savez_compressed(path, x=x, y=np.arange(60) % 3)
    return [plain, path.read_bytes()]


_MAKERS: dict[str, Callable[[Path], list[bytes]]] = {
    "genome": _genomes, "recipe": _recipes, "study": _studies, "config": _configs, "weights": _weights,
    "database": _databases, "table": _tables, "npz": _npzs,
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------- the mutations

_WORDS: tuple[bytes, ...] = (
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 400, b"[]", b"{}", b'""', b"[" * 50, b"\xff\xfe",
    b"\0", b"\xed\xa0\x80", b"\\ud800", b"../../x", b"os:system", b"!!python/object/apply:os.system", b"*a", b"&a ",
    b"<<: ", b"\n", b"%", b"'", b'"', b"\x7f", b"\xe2\x80\xae", b"1.5", b"-0", b"2147483648", b"~x/y.py:f",
)  # fmt: skip


def mutated(rng: random.Random, sample: bytes) -> tuple[bytes, int]:
    """A sample with some bytes changed, and how many."""
    data = bytearray(sample)
    count = round(2 ** rng.uniform(0, 8))
    changed = 0
    while changed < count and data:
        at = rng.randrange(len(data))
        changed += _mutate(rng, data, at, count - changed)
    return bytes(data), max(changed, 1)


def _mutate(rng: random.Random, data: bytearray, at: int, most: int) -> int:
    """Changes some bytes at a place; how many."""
    kind = rng.randrange(8)
    if kind < 3:
        data[at] = rng.randrange(256) if kind else data[at] ^ (1 << rng.randrange(8))
        return 1
    size = min(rng.randint(1, 16), most, len(data) - at)
    if kind == 3:
        del data[at : at + size]
        return size
    if kind == 4:
        data[at:at] = data[at : at + size]
        return size
    if kind == 5:
        word = rng.choice(_WORDS)
        data[at : at + len(word) * rng.randrange(2)] = word
        return len(word)
    if kind == 6:
        other = rng.randrange(len(data))
        piece = data[other : other + size]
        data[at : at + len(piece)] = piece
        return max(len(piece), 1)
    data[at : at + size] = rng.randbytes(size)
    return size


_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 2**31, 2**63, 2**64, 10**400, 1e308, -1e-320, 0.5, "", "x" * 300, "\ud800", "\0", [], {},
    [[]], [None], {"": 0}, "<script>", "../x", [0] * 300, "ok", "failed",
)  # fmt: skip


def twisted(rng: random.Random, value: Any) -> Any:
    """JSON with one value in it changed, left out, or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: twisted(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:at] + value[at + rng.randrange(2) * 2 :]
        return [*value[:at], twisted(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_VALUES)


def retold(rng: random.Random, sample: bytes) -> tuple[bytes, int]:
    """A JSON file with one value changed."""
    told = json.dumps(twisted(rng, json.loads(sample))).encode()
    return told, 8


def forged(rng: random.Random, sample: bytes) -> tuple[bytes, int]:
    """A database with one cell changed and every hash and count made right again, as whoever sends it could."""
    from evonas import store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.sqlite"
        path.write_bytes(sample)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            table = rng.choice([name for name in store._TABLES if name != "ledger"])
            rows = db.execute(f"SELECT * FROM {table}").fetchall()
            if not rows:
                return sample, 1
            key, _, *cells = rng.choice(rows)
            at = rng.randrange(len(cells))
            cells[at] = _other_cell(rng, cells[at])
            stamp = store._stamp(table, (key, *cells))
            names = [column.split()[0] for column in store._TABLES[table][1:]]
            told = ", ".join(f"{name} = ?" for name in ("hash", *names))
            where = store._TABLES[table][0].split()[0]
            db.execute(f"UPDATE {table} SET {told} WHERE {where} = ?", (stamp, *cells, key))
            _recount(db)
        return path.read_bytes(), 8


def _other_cell(rng: random.Random, cell: Any) -> Any:
    if isinstance(cell, str) and rng.random() < 0.9:
        try:
            return json.dumps(twisted(rng, json.loads(cell)))
        except ValueError:
            pass
    if isinstance(cell, bytes) and cell:
        return mutated(rng, cell)[0]
    return rng.choice((None, -1, 0, 2**62, 1e308, "", "x", "[]", "{}", b"", "<script>"))


def _recount(db: sqlite3.Connection) -> None:
    """The ledger as it has to be for the rows that are there."""
    from evonas import store

    ledger = store._Ledger(**json.loads(db.execute("SELECT body FROM ledger").fetchone()[0]))
    for table in store._COUNTED:
        key = store._TABLES[table][0].split()[0]
        ledger.tables[table] = list(store._sums(db.execute(f"SELECT {key}, hash FROM {table}")))
    row = store._ledger_row(ledger)
    db.execute("UPDATE ledger SET hash = ?, body = ?", (store._stamp("ledger", row), row[1]))


_CRAFTS: dict[str, Sequence[Callable[[random.Random, bytes], tuple[bytes, int]]]] = {
    "genome": (mutated, retold),
    "database": (mutated, forged),
}
"""How the samples of a kind are changed, each as often."""


def fuzz(kind: str, seed: int, wanted: int) -> dict[str, Any]:
    """Eats mutated samples until so many bytes were changed; the faults, each with its file."""
    rng, guard = random.Random(seed), Guard()
    faults: dict[str, str] = {}
    eaten_files = changed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        real = samples(kind, folder)
        for one in real:  # what is loaded once is imported before anybody listens
            assert not _warmed(kind, one, folder)
        confine()
        while changed < wanted and len(faults) < 12:
            craft = rng.choice(_CRAFTS.get(kind, (mutated,)))
            data, count = craft(rng, rng.choice(real))
            fault = eaten(LOADERS[kind], data, folder, guard)
            if fault:
                faults.setdefault(_last_lines(fault), base64.b64encode(data[:20_000]).decode())
            eaten_files, changed = eaten_files + 1, changed + count
        shutil.rmtree(folder / "run", ignore_errors=True)
    return {"files": eaten_files, "bytes": changed, "faults": faults}


def _warmed(kind: str, data: bytes, folder: Path) -> str:
    try:
        LOADERS[kind](data, folder)
    except EvonasError as error:
        return "" if kind == "weights" else str(error)
    return ""


def _last_lines(fault: str) -> str:
    """A fault without what differs from file to file."""
    return "\n".join(fault.splitlines()[-14:])[:1500]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
