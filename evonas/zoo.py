"""The zoo: published architectures and champions as genome files, to start a search from or to compare with.

A file is JSON: `name`, `about`, `source`, `task` (kind, input, outputs), `params`, `flops`, `genome` and, where a
genome alone does not say which network it is, `settings` of its encoding; a bare genome is read too."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from evonas import encoding, limits
from evonas.core import DataError, Encoding, Genome, RecipeError, loads, nearest
from evonas.encoding import population
from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Plan
from evonas.encoding.population import NeatGenome
from evonas.marks import INPUT, OUTPUT, MarkBook

__all__ = ["Entry", "decoded", "enrol", "entries", "entry", "load", "names", "renamed"]

MAX_BYTES = limits.GENOME_BYTES


@dataclass(frozen=True, slots=True)
class Entry:
    """One genome of the zoo with what is known about it; `params` and `flops` hold for its task's shapes."""

    name: str
    about: str
    source: str
    task: str
    input: tuple[int, ...]
    outputs: int
    params: int
    flops: int
    genome: Mapping[str, Any]
    edge_norm: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """The names of the zoo's genomes, sorted."""
    return tuple(_shelf())


def entries() -> Iterator[Entry]:
    """Every genome of the zoo with what is known about it, by name."""
    return map(entry, names())


def entry(name: str) -> Entry:
    """What the zoo knows about a genome. Raises RecipeError for an unknown name, DataError for a damaged file."""
    shelf = _shelf()
    if name not in shelf:
        raise RecipeError(f"no genome {name!r} in the zoo, nor a file of that name; {nearest(name, list(shelf))}")
    try:
        return _entry(_json(shelf[name].read_bytes(), name))
    except (KeyError, TypeError) as error:
        raise DataError(f"zoo genome {name!r} is damaged ({error!r}): install evonas again") from None


def _entry(data: Any) -> Entry:
    task = data["task"]
    for told in (data["name"], data["about"], data["source"], task["kind"]):
        if not isinstance(told, str):
            raise TypeError(f"{told!r:.60} is no text")
    for size in (data["params"], data["flops"]):
        if type(size) is not int or not 0 <= size < 2**63:
            raise TypeError(f"{size!r:.60} is no size")
    return Entry(
        data["name"], data["about"], data["source"], task["kind"], tuple(task["input"]), task["outputs"],
        data["params"], data["flops"], data["genome"], data.get("edge_norm"), data.get("settings", {}),
    )  # fmt: skip


def decoded(name_or_path: str | os.PathLike[str]) -> tuple[Entry, Genome, Plan]:
    """A genome of the zoo, or of a file as `evonas export --to genome` writes it, with its network for its own task.

    Raises RecipeError where there is no such name or file, DataError for what is no such file."""
    path = Path(name_or_path)
    if path.suffix != ".json" and not path.is_file():
        one = entry(str(name_or_path))
    else:
        try:
            one = _entry(_json(_read(path), str(path)))
        except (KeyError, TypeError, AttributeError):
            cure = "write it with evonas export --to genome"
            raise DataError(f"{path} does not say what its genome is for (task, input, outputs): {cure}") from None
    space = _space(one, str(name_or_path))
    genome = load(name_or_path, space)
    return one, genome, space.decode(genome)


def _space(one: Entry, source: str) -> Encoding:
    """The encoding that reads an entry's genome, in its task's shapes. Raises DataError for what has none."""
    if len(one.input) not in (1, 3):
        raise DataError(
            f"{source}: task.input has {len(one.input)} sizes: write (features) or (channels, height, width)"
        )
    if not all(type(size) is int and 0 < size <= limits.SIDE for size in (*one.input, one.outputs)):
        raise DataError(f"{source}: task.input and task.outputs are no whole numbers above 0: mend the file")
    try:
        kept = dict(one.settings)
        if one.edge_norm is not None:
            kept["edge_norm"] = one.edge_norm
        if "feed_forward" in one.genome:
            kept["feed_forward"] = one.genome["feed_forward"]
        settings = encoding.TABLE[one.genome["encoding"]].model_validate(kept)
        return encoding.build(settings, one.input, one.outputs)
    except RecipeError as error:
        raise DataError(f"{source}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: {' '.join(str(error).split())[:200]}: no genome of this evonas") from None


def load(name_or_path: str | os.PathLike[str], encoding: Encoding) -> Genome:
    """A genome of the zoo by name, or of a JSON file by path, read and checked by an encoding.

    Raises RecipeError where there is no such name or file, DataError naming the file and what is wrong in it."""
    path = Path(name_or_path)
    writer = ""
    if path.suffix == ".json" or path.is_file():
        whole = _json(_read(path), str(path))
        source, data, writer = str(path), _genome_of(whole), _writer(whole)
    else:
        source, data = str(name_or_path), entry(str(name_or_path)).genome
    try:
        genome = encoding.from_json(data)
        encoding.check(genome)
    except DataError as error:
        raise DataError(f"{source}: {error}{writer}") from None
    return genome


def enrol(genomes: Sequence[Any], book: MarkBook) -> tuple[Genome, ...]:
    """Founders from different files with marks that mean one thing in a run; they compute what they did.

    The marks in files are independent small numbers: equal ones would align by accident. Input and output keep theirs;
    every other node gets the mark that it would get if it were grown in this run, so copies of one founder share all
    marks, and founders share those of what they have in common. Stanley and Miikkulainen 2002, section 3.2.

    - Layer graphs: two layers get the same mark if they are the same operation fed by the same layers. A new one's mark
      is that of a layer grown between its first source and the output, as random genomes grow. Raises DataError for a
      genome whose edges into the output cannot keep their order.
    - Direct genomes: a node is named by the two ends of the link it was put into, those of its oldest links.
    - Cells, and genomes of users' own encodings, keep their marks."""
    places: dict[_Place, int] = {}
    taken: set[int] = set()
    return tuple(
        _transplanted(genome, book) if isinstance(genome, NeatGenome)
        else _enrolled(genome, book, places, taken) if isinstance(genome, DagGenome)
        else genome
        for genome in genomes
    )  # fmt: skip


def renamed(founder: DagGenome, enrolled: DagGenome) -> dict[int, int]:
    """The marks in a run of a founder's live layers and edges, by those in its file; its weights are named by them.

    Enrolling keeps the order of every layer's inputs, so both genomes are walked side by side from the output."""
    marks = {OUTPUT: OUTPUT}
    waiting = [OUTPUT]
    while waiting:
        old = waiting.pop()
        for one, other in zip(founder.incoming[old], enrolled.incoming[marks[old]], strict=True):
            marks[one.mark] = other.mark
            if one.source not in marks:
                marks[one.source] = other.source
                waiting.append(one.source)
    return marks


# ------------------------------------------------------------------------------------------------------------ files


def _shelf() -> dict[str, Traversable]:
    """The zoo's files by name: `evonas/genomes` where a wheel put them, else `genomes` beside the package."""
    package = files("evonas")
    folders = [package / "genomes", *([package.parent / "genomes"] if isinstance(package, Path) else [])]
    for folder in folders:
        if folder.is_dir():
            found = {item.name.removesuffix(".json"): item for item in folder.iterdir() if item.name.endswith(".json")}
            return dict(sorted(found.items()))
    raise DataError("the zoo's folder `genomes` is missing: install evonas again")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are too many for a genome (at most {MAX_BYTES:,})")
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read the genome file {path}: {error.strerror}; zoo: {', '.join(names())}") from None


def _json(content: bytes, source: str) -> Any:
    try:
        return loads(content)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def _writer(data: Any) -> str:
    """Which evonas wrote a genome's file, where the file says so and a newer one may be needed to read it."""
    found = re.match(r"evonas (\d[\w.]{0,40})", str(data.get("source"))) if isinstance(data, dict) else None
    newer = found is not None and found[1] != metadata.version("evonas")
    return f"; evonas {found[1]} wrote the file: install that version or a newer one" if found and newer else ""


def _genome_of(data: Any) -> Any:
    """The genome in a file that tells more about it."""
    return data["genome"] if isinstance(data, dict) and "genome" in data else data


# ------------------------------------------------------------------------------------------------------------ marks

_Place = tuple[str, tuple[int, ...], int]
"""A layer's operation, the new marks of its sources in order, and which of such layers it is in its genome."""


def _enrolled(genome: DagGenome, book: MarkBook, places: dict[_Place, int], taken: set[int]) -> DagGenome:
    shared = _remarked(genome, book, places, taken)
    if _ordered(shared, genome):
        return shared.genome
    # an older genome joins the same layers in another order: this one gets marks of its own
    apart = _remarked(genome, book, {}, set(range(book.free)))
    if not _ordered(apart, genome):
        raise DataError("genome: the edge from the input (0) to the output (1) is not the first of the output's edges, "
                        "as other genomes of this run need it: give it the lowest edge mark")  # fmt: skip
    return apart.genome


@dataclass(frozen=True, slots=True)
class _Remarked:
    genome: DagGenome
    layers: Mapping[int, int]
    """New marks of layers by old ones."""


def _remarked(genome: DagGenome, book: MarkBook, places: dict[_Place, int], taken: set[int]) -> _Remarked:
    """The genome with marks from the book: known places keep theirs, new ones are noted and get a mark not taken."""
    layers, twins = {INPUT: INPUT, OUTPUT: OUTPUT}, Counter[tuple[str, tuple[int, ...]]]()
    for mark in genome.order:
        if mark in layers:
            continue
        kind = (genome.layer[mark].op, tuple(layers[edge.source] for edge in genome.incoming[mark]))
        place = (*kind, twins[kind])
        twins[kind] += 1
        if place not in places:
            places[place] = book.node(kind[1][0] if kind[1] else INPUT, OUTPUT, taken)
            taken.add(places[place])
        layers[mark] = places[place]
    edges = [EdgeGene(book.edge(layers[e.source], layers[e.target]), layers[e.source], layers[e.target])
             for e in genome.edges]  # fmt: skip
    genes = [LayerGene(layers[gene.mark], gene.op, **gene.attributes()) for gene in genome.layers]
    return _Remarked(DagGenome.of(genes, edges), layers)


def _ordered(new: _Remarked, old: DagGenome) -> bool:
    """Whether every layer has its inputs in the order it had before: a concatenation's channels follow it."""
    return all(
        [edge.source for edge in new.genome.incoming[new.layers[mark]]]
        == [new.layers[edge.source] for edge in old.incoming[mark]]
        for mark in old.layer
    )


def _transplanted(genome: NeatGenome, book: MarkBook) -> NeatGenome:
    """A direct genome with marks from the book."""
    ends = genome.inputs + genome.outputs
    book.reserve(ends)
    nodes, links = population.rows(genome)
    known, taken = {mark: mark for mark in range(ends)}, set[int]()
    oldest: dict[int, list[tuple[int, int]]] = {mark: [] for mark, *_ in nodes}
    for _, source, target, *_ in links:
        for mark in {source, target} - known.keys():
            oldest[mark].append((source, target))
    for mark in genome.node_mark.tolist()[genome.outputs :]:
        known[mark] = book.node(*_split(mark, oldest[mark], known, genome.inputs), taken)
        taken.add(known[mark])
    nodes = [[known[mark], *values] for mark, *values in nodes]
    links = [[book.edge(known[a], known[b]), known[a], known[b], *values] for _, a, b, *values in links]
    return NeatGenome.of(genome.inputs, genome.outputs, genome.feed_forward, nodes, links)


def _split(mark: int, links: Sequence[tuple[int, int]], known: Mapping[int, int], inputs: int) -> tuple[int, int]:
    """The new marks of the ends that a node was put between, of its links' other ends those that are known: ends of
    links that were removed since are unknown, then the first input and the first output stand in."""
    source = next((a for a, b in links if b == mark and a in known), 0)
    target = next((b for a, b in links if a == mark and b in known), inputs)
    return known[source], known[target]
