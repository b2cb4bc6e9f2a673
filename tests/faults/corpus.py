"""Files as a stranger with bad intentions would make them: none lies in the repository, every one is made here.

    python -m tests.faults.corpus

lets each be eaten in one process with limits, and prints what it met as JSON."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evonas import store
from tests.faults import eater


class Hostile(NamedTuple):
    """A file: which loader gets it, what is in it, and what its refusal has to say."""

    kind: str
    content: Callable[[Path], bytes]
    told: str


class Trap:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch pwned",)


# --------------------------------------------------------------------------------------------------------- genomes


def genome(layers: list[Any] | None = None, edges: list[Any] | None = None, **changes: Any) -> bytes:
    """A genome file of a small layer graph, with some of it replaced."""
    whole = {"name": "n", "about": "", "source": "", "task": {"kind": "images", "input": [1, 8, 8], "outputs": 2},
             "params": 1, "flops": 1}  # fmt: skip
    told = {"encoding": "dag", "format": 1, "layers": layers or CHAIN, "edges": edges or LINKS}
    return json.dumps({**whole, "genome": told, **changes}).encode()


CHAIN: list[Any] = [{"mark": 0, "op": "input"}, {"mark": 1, "op": "output"}, {"mark": 2, "op": "gate"}]
LINKS: list[Any] = [[3, 0, 2], [4, 2, 1]]


def direct(nodes: int) -> bytes:
    """A direct genome with so many nodes."""
    told = {"encoding": "neat", "format": 1, "inputs": 1, "outputs": 1, "feed_forward": True,
            "nodes": [[mark, 0, 1, "tanh", "sum"] for mark in range(1, nodes + 1)], "links": []}  # fmt: skip
    return genome(genome=told, task={"kind": "control", "input": [1], "outputs": 1})


def conv(**sizes: Any) -> list[Any]:
    return [*CHAIN[:2], {"mark": 2, "op": "conv", **sizes}]


GENOMES: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "a million nodes": (partial(direct, 1_000_000), "bytes are too many for a genome"),
    "a million layers": (lambda: genome([{"mark": i, "op": "gate"} for i in range(400_000)]), "at most 1000"),
    "a thousand and one layers": (genome(CHAIN + [{"mark": i, "op": "gate"} for i in range(5, 1003)]), "at most 1000"),
    "too many edges": (genome(edges=[[i, 0, 2] for i in range(10_001)]), "at most 10000"),
    "a layer of a billion filters": (genome(conv(channels=10**9)), "channels 1000000000 is no integer from 1 to 8192"),
    "a kernel of a billion": (genome(conv(channels=8, kernel=10**9 + 1)), "kernel 1000000001 is no integer"),
    "a cycle": (genome(edges=[*LINKS, [5, 2, 2]]), "cycle"),
    "an unknown operation": (genome([*CHAIN[:2], {"mark": 2, "op": "os.system"}]), "'os.system' is not known"),
    "an unknown encoding": (genome(genome={"encoding": "os:system"}), "no genome of this evonas"),
    "deep JSON": (b"[" * 200_000, "not valid JSON: RecursionError"),
    "deep JSON in a genome": (b'{"genome": ' * 100_000, "not valid JSON: RecursionError"),
    "five thousand digits": (b'{"params": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "NaN": (genome(params=float("nan")), "'NaN' is no JSON number"),
    "1e999": (genome().replace(b'"params": 1', b'"params": 1e999'), "'1e999' is no JSON number"),
    "an endless side": (genome(task={"kind": "images", "input": [2**40], "outputs": 2}), "no whole numbers above 0"),
    "a negative side": (genome(task={"kind": "images", "input": [-1], "outputs": 2}), "no whole numbers above 0"),
    "a pickle": (pickle.dumps(Trap()), "not valid JSON"),
    "no text": (b"\xff\xfe\x00\xd8", "not valid JSON"),
    "nothing": (b"", "not valid JSON"),
    "a mark beyond counting": (genome([*CHAIN[:2], {"mark": 2**70, "op": "gate"}]), "integer mark"),
    "a hostile name": (genome(name=["x"]), "does not say what its genome is for"),
    "a size beyond counting": (genome(params=10**400), "does not say what its genome is for"),
}


# --------------------------------------------------------------------------------------------------------- recipes

GOOD = b"task: {kind: iris}\nobjectives: [error]\n"
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
)
RECIPES: dict[str, tuple[bytes, str]] = {
    "an alias bomb": (BOMB, "aliases expand to too many values"),
    "a Python object": (b"task: !!python/object/apply:os.system [touch pwned]\n", "a list is not allowed"),
    "a Python name": (GOOD + b"name: !!python/name:os.system\n", "is not allowed: write plain values"),
    "too large": (GOOD + b"#" * 70_000, "larger than 64 KiB"),
    "deep": (b"a: " + b"[" * 10_000, "nested more than 32 levels"),
    "five thousand digits": (GOOD + b"seed: " + b"9" * 5000, "more than 100 digits"),
    "infinity": (GOOD + b"budget: {seconds: 1e999}\n", "must be a finite number"),
    "a name that leaves its folder": (GOOD + b"name: ../../x\n", "is not allowed: 1 to 64 letters"),
    "a device's name": (GOOD + b"name: con\n", "no device name"),
    "no text": (b"\xff\xfe\x00\x01", "not UTF-8 text"),
    "a pickle": (pickle.dumps(Trap(), protocol=0), "a recipe is lines of key: value"),
    "own code": (GOOD + b"strategy: {kind: 'os:system'}\n", "--allow-code"),
    "an own function": (b"task: {kind: iris}\nobjectives: [{name: x, function: 'os:system'}]\n", "--allow-code"),
    "an own module": (GOOD + b"encoding: {kind: dag, initial: ['os:system']}\n", "--allow-code"),
    "a package's environment": (
        b"task: {kind: gymnasium, environment: 'antigravity:X-v0'}\nencoding: {kind: neat}\nobjectives: [fitness]\n"
        b"estimator: {kind: population}\n", "--allow-code",
    ),
    "a metric that is none": (
        b"task: {kind: iris}\nobjectives: [{name: x, metric: os.system, direction: max}]\n", "is not allowed",
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- weights


def tensors(header: object, body: bytes = b"\0" * 16) -> bytes:
    """A safetensors file with a header of one's own."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + body


def tensor(shape: list[int], first: int = 0, last: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


NONE = "no safetensors file|not in the safetensors format|no arrays"
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "a header without end": (struct.pack("<Q", 2**63) + b"{}", NONE),
    "a header longer than the file": (struct.pack("<Q", 90_000_000) + b"{}", NONE),
    "a shape without end": (tensors({"a": tensor([2**40, 2**40])}), NONE),
    "a shape of billions": (tensors({"a": tensor([4_000_000_000])}), NONE),
    "an empty shape of billions": (tensors({"a": tensor([2**62, 0], 0, 0)}, b""), ".+"),
    "offsets that overlap": (tensors({"a": tensor([4]), "b": tensor([4])}), NONE),
    "offsets beyond the file": (tensors({"a": tensor([1 << 20], 0, 4 << 20)}), NONE),
    "offsets backwards": (tensors({"a": tensor([4], 16, 0)}), NONE),
    "an unknown type": (tensors({"a": tensor([4], dtype="PYOBJ")}), NONE),
    "a rare type": (tensors({"a": tensor([4, 4], dtype="F8_E4M3")}), ".+"),
    "deep": (tensors(b'{"a":' + b"[" * 100_000), NONE),
    "a pickle": (pickle.dumps(Trap()), NONE),
    "a torch file": (zipfile.ZIP_DEFLATED.to_bytes(2, "big") + b"PK\x03\x04archive/data.pkl", NONE),
    "nothing": (b"", NONE),
}


# ------------------------------------------------------------------------------------------------------- databases


def sample(folder: Path) -> bytes:
    return eater.samples("database", folder)[0]


def tampered(*statements: str) -> Callable[[Path], bytes]:
    """The database of a real run after some SQL."""

    def made(folder: Path) -> bytes:
        path = folder / "tampered.sqlite"
        path.write_bytes(sample(folder))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)
        return path.read_bytes()

    return made


def forged(table: str, column: str, value: object) -> Callable[[Path], bytes]:
    """The database of a real run with one cell of every row replaced, and every hash made right again."""

    def made(folder: Path) -> bytes:
        path = folder / "forged.sqlite"
        path.write_bytes(sample(folder))
        names = [name.split()[0] for name in store._TABLES[table]]
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for key, _, *cells in db.execute(f"SELECT * FROM {table}").fetchall():
                row = dict(zip(names, (key, *cells), strict=True)) | {column: value}
                stamp = store._stamp(table, list(row.values()))
                db.execute(f"UPDATE {table} SET hash = ?, {column} = ? WHERE {names[0]} = ?", (stamp, value, key))
            eater._recount(db)
        return path.read_bytes()

    return made


ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS name, x AS hash, x AS value FROM n"
)
FOREIGN, STRANGE = "its tables are not those of a run", "evonas did not write that"
DATABASES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a view that reckons for ever": (tampered("DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS}"), FOREIGN),
    "a view in a table's place": (
        tampered("ALTER TABLE events RENAME TO old", "CREATE VIEW events AS SELECT * FROM old"), FOREIGN,
    ),
    "a trigger": (
        tampered("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM estimates; END"), FOREIGN,
    ),
    "a column that is made up": (tampered("ALTER TABLE events ADD COLUMN big AS (zeroblob(900000000))"), FOREIGN),
    "a virtual table": (tampered("CREATE VIRTUAL TABLE v USING fts5(x)"), FOREIGN),
    "weights outside": (forged("estimates", "weights", "../../../etc/passwd"), STRANGE),
    "values that are none": (forged("estimates", "objectives", '{"params": "x", "depth": 1}'), STRANGE),
    "a value beyond numbers": (forged("estimates", "objectives", '{"params": 1%s}' % ("0" * 400)), STRANGE),
    "a status that is none": (forged("estimates", "status", "<script>"), STRANGE),
    "parents that are none": (forged("individuals", "parents", '["x"]'), STRANGE),
    "edits that are none": (forged("individuals", "edits", '[{"op": 1}]'), STRANGE),
    "a genome that is none": (forged("genomes", "body", "[" * 200_000), "not valid JSON"),
    "a front that is none": (forged("fronts", "body", '{"a": 1}'), STRANGE),
    "members that are none": (forged("species", "body", '[{"members": [{}]}]'), STRANGE),
    "a number in a text's place": (forged("events", "text", b"\x80"), "is damaged"),
    "a recipe that is none": (forged("meta", "value", '{"format": 2, "since": "x", "task": []}'), ".+"),
    "a pickle": (lambda _: pickle.dumps(Trap()), "no SQLite database"),
    "nothing": (lambda _: b"", "no SQLite database"),
    "a header alone": (lambda folder: sample(folder)[:100], "it has 100 bytes"),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- rows


def archive(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def npy(shape: str, body: bytes, descr: str = "'<f4'") -> bytes:
    """An array's file that says to hold a shape."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


LABELS = npy("(4,)", struct.pack("<4q", 0, 1, 0, 1), "'<i8'")
ROWS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a bomb": (lambda _: archive({"x.npy": npy("(30000000,)", b"\0" * 120_000_000), "y.npy": LABELS}), "max_bytes"),
    "a shape without end": (lambda _: archive({"x.npy": npy("(1000000000000, 4)", b""), "y.npy": LABELS}), "max_bytes"),
    "pickled objects": (lambda _: archive({"x.npy": npy("(1,)", pickle.dumps(Trap()), "'|O'"), "y.npy": LABELS}), ".+"),
    "code in a header": (
        lambda _: archive({"x.npy": npy("__import__('os').system('touch pwned')", b""), "y.npy": LABELS}), ".+",
    ),
    "a member that leaves the archive": (lambda _: archive({"../../x.npy": LABELS, "y.npy": LABELS}), ".+"),
    "no archive": (lambda _: pickle.dumps(Trap()), ".+"),
}  # fmt: skip


def _made(content: bytes | Callable[[], bytes]) -> Callable[[Path], bytes]:
    return lambda _: content() if callable(content) else content


CORPUS: dict[str, Hostile] = {
    **{f"genome: {name}": Hostile("genome", _made(content), told) for name, (content, told) in GENOMES.items()},
    **{f"recipe: {name}": Hostile("recipe", _made(content), told) for name, (content, told) in RECIPES.items()},
    **{f"weights: {name}": Hostile("weights", _made(content), told) for name, (content, told) in WEIGHTS.items()},
    **{f"database: {name}": Hostile("database", make, told) for name, (make, told) in DATABASES.items()},
    **{f"npz: {name}": Hostile("npz", make, told) for name, (make, told) in ROWS.items()},
}


def _strict(kind: str, said: list[str]) -> eater.Loader:
    """A kind's loader that notes what a refusal says."""

    def load(data: bytes, folder: Path) -> None:
        try:
            eater.LOADERS[kind](data, folder)
        except eater.EvonasError as error:
            said.append(str(error))
            raise

    return load


def main() -> dict[str, Any]:
    """What became of every file: its fault, which is empty where it was refused in the right way, and its refusal."""
    guard, found = eater.Guard(), {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = {name: one.content(folder) for name, one in CORPUS.items() if one.kind != "npz"}
        for kind in ("genome", "recipe", "weights", "database", "npz"):
            for one in eater.samples(kind, folder)[:2]:
                eater._warmed(kind, one, folder)
        made |= {name: one.content(folder) for name, one in CORPUS.items() if one.kind == "npz"}
        eater.confine()
        for name, data in made.items():
            said: list[str] = []
            fault = eater.eaten(_strict(CORPUS[name].kind, said), data, folder, guard)
            found[name] = {"fault": fault, "said": "\n".join(said)}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
