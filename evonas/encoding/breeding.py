"""Variation of direct genomes, a whole population at a time: first genomes, crossover, mutation, distance.

What runs over every gene exists twice, as a compiled kernel (`kernels/breeding.c`) and in NumPy, with the same results
bit for bit and for any number of threads: random numbers are functions of the seed and a gene's place (`hashing.py`).
What happens to few genomes, such as structural mutation, gathers those, changes them and puts them back. Rules: Stanley
and Miikkulainen 2002, section 3; words: neat-python's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evonas import native
from evonas.core import Edit, RecipeError
from evonas.encoding import hashing
from evonas.encoding.population import Codes, Ints, Offsets, Population, Reals
from evonas.encoding.variation import BreedingSettings, ChoiceGene, DistanceSettings, Structure, ValueGene
from evonas.marks import MarkBook

# ---------------------------------------------------------------------------------------------------- first genomes

Flags = NDArray[np.bool_]
Edits = dict[int, tuple[Edit, ...]]
Column = NDArray[Any]

NODES = ("node_mark", "bias", "response", "activation", "aggregation")
LINKS = ("link_mark", "source", "target", "weight", "enabled")
GENES = {"node": ("node_offsets", NODES), "link": ("link_offsets", LINKS)}
TYPES: dict[str, type[np.generic]] = {
    "node_mark": np.int32, "bias": np.float64, "response": np.float64, "activation": np.uint8, "aggregation": np.uint8,
    "link_mark": np.int32, "source": np.int32, "target": np.int32, "weight": np.float64, "enabled": np.uint8,
}  # fmt: skip
NOWHERE = -1
"""In place of a node that new hidden nodes were put behind: they are of the first genomes."""


def found(settings: BreedingSettings, count: int, inputs: int, outputs: int, seed: int, book: MarkBook) -> Population:
    """`count` first genomes. RecipeError where they would have more links than allowed."""
    book.reserve(inputs + outputs)
    low, high = settings.initial_hidden
    genomes = np.arange(count)
    hidden = low + hashing.below(hashing.key_of(seed, "hidden"), genomes, np.full(count, high - low + 1))
    hidden_marks = np.array([book.node(NOWHERE, j) for j in range(high)], np.int64)
    node_mark = np.concatenate((np.arange(inputs, inputs + outputs), hidden_marks))
    node_owner, node = np.nonzero(np.arange(outputs + high) < outputs + hidden[:, None])
    ends = _first_ends(inputs, outputs, hidden_marks.tolist())
    chosen = _first_links(settings, ends, hidden_marks, hidden, inputs, seed)
    marks = np.array([book.edge(*pair) for pair in ends.tolist()], np.int64)
    order = np.argsort(marks)
    link_owner, link = np.nonzero(chosen[:, order])
    link = order[link]
    _refuse_more(settings, link_owner, count)
    at, links_at = np.arange(len(node)), np.arange(len(link))
    return Population(
        inputs, outputs, settings.feed_forward,
        _offsets(np.bincount(node_owner, minlength=count)), node_mark[node].astype(np.int32),
        _drawn(settings.bias, hashing.key_of(seed, "bias"), at),
        _drawn(settings.response, hashing.key_of(seed, "response"), at),
        _first_choices(settings.activation, hashing.key_of(seed, "activation"), at),
        _first_choices(settings.aggregation, hashing.key_of(seed, "aggregation"), at),
        _offsets(np.bincount(link_owner, minlength=count)),
        marks[link].astype(np.int32), ends[link, 0].astype(np.int32), ends[link, 1].astype(np.int32),
        _drawn(settings.weight, hashing.key_of(seed, "weight"), links_at), np.ones(len(link), np.uint8),
    )  # fmt: skip


def _first_ends(inputs: int, outputs: int, hidden: list[int]) -> Offsets:
    """All links that first genomes choose from, (links, 2): from every input, then from the hidden nodes."""
    last = range(inputs, inputs + outputs)
    forward = [(i, o) for i in range(inputs) for o in last]
    through = [(i, h) for h in hidden for i in range(inputs)] + [(h, o) for h in hidden for o in last]
    return np.array(forward + through, np.int64).reshape(-1, 2)


def _first_links(
    settings: BreedingSettings, ends: Offsets, hidden_marks: Offsets, hidden: Offsets, inputs: int, seed: int
) -> Flags:
    """Which of the links each first genome has, (n, links)."""
    count, places = len(hidden), np.arange(len(hidden) * len(ends)).reshape(len(hidden), len(ends))
    rank = np.full(len(ends), -1)
    for j, mark in enumerate(hidden_marks):
        rank[(ends == mark).any(axis=1)] = j
    possible = rank < hidden[:, None]
    kind = settings.initial_connection
    if kind == "full":
        return possible
    if kind == "single":
        only = hashing.below(hashing.key_of(seed, "single"), np.arange(count), np.full(count, inputs))
        return np.asarray(possible & ((ends[:, 0] >= inputs) | (ends[:, 0] == only[:, None])))
    if kind == "none":
        return np.zeros_like(possible)
    draws = np.where(possible, hashing.uniforms(hashing.key_of(seed, "fraction"), places), 2.0)
    ranks = draws.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.asarray(ranks < np.rint(settings.initial_fraction * possible.sum(axis=1))[:, None])


def _refuse_more(settings: BreedingSettings, owner: Offsets, count: int) -> None:
    most = int(np.bincount(owner, minlength=count).max(initial=0))
    if settings.bounds.connections is not None and most > settings.bounds.connections:
        raise RecipeError(
            f"initial_connection {settings.initial_connection!r} gives a genome {most} links, more than bounds."
            f"connections {settings.bounds.connections}: raise it or begin with fewer links"
        )


def _drawn(gene: ValueGene, key: int, at: Offsets) -> Reals:
    draw = hashing.normals if gene.draw == "gauss" else hashing.spread
    return np.clip(gene.mean + gene.deviation * draw(key, at), gene.min, gene.max)


def _first_choices(gene: ChoiceGene, key: int, at: Offsets) -> Codes:
    """First choices for each index."""
    if gene.default == "random":
        return _options(gene, key, at)
    return np.full(len(at), gene.known.index(gene.default), np.uint8)


def _options(gene: ChoiceGene, key: int, at: Offsets) -> Codes:
    """Options drawn for each index."""
    codes = np.array([gene.known.index(name) for name in gene.options], np.uint8)
    return codes[hashing.below(key, at, np.full(len(at), len(codes)))]


def _offsets(sizes: NDArray[Any]) -> Offsets:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


# -------------------------------------------------------------------------------------------------------- crossover


def mate(
    population: Population,
    fitter: Offsets,
    other: Offsets,
    equal: Flags,
    settings: BreedingSettings,
    seed: int,
    threads: int = 1,
) -> Population:
    """k children. Matching genes come from `fitter` (k,) or `other` (k,) at random, the rest from `fitter`, or from
    both where they are `equal` (k,). Alone, where `other` is negative or the same, a parent is copied.

    Of an equal pair's feed-forward union, links that only `other` has and that would close a cycle are left out, and
    where it would exceed a limit on sizes, `fitter` counts as fitter. Stanley and Miikkulainen 2002, figure 4."""
    fitter, other = np.ascontiguousarray(fitter, np.int64), np.ascontiguousarray(other, np.int64)
    other = np.where(other == fitter, -1, other)
    tied = np.flatnonzero(np.asarray(equal, bool) & (other >= 0))
    parents, fitter = _with_unions(population, fitter, other, tied, settings, threads)
    pairs = np.arange(len(fitter))
    average = hashing.uniforms(hashing.key_of(seed, "average"), pairs) < settings.crossover.average
    keys = [hashing.key_of(seed, purpose) for purpose in ("matching node", "matching link", "disabled")]
    crossed = _crossed if _kernels() else _crossed_slowly
    return crossed(parents, fitter, other, average.astype(np.uint8), settings.crossover.disabled, keys, threads)


def _crossed(
    parents: Population, fitter: Offsets, other: Offsets, average: Codes, disabled: float, keys: list[int], threads: int
) -> Population:
    made = [_empty(_offsets(np.diff(getattr(parents, offsets))[fitter]), names) for offsets, names in GENES.values()]
    _run(
        "mate", len(fitter), threads, fitter, other, average, *_genes(parents), *map(_Genes.of, made), disabled, *keys
    )  # fmt: skip
    arrays: list[Any] = [*made[0], *made[1]]
    return Population(*parents.shape, *arrays)


def _crossed_slowly(
    parents: Population, fitter: Offsets, other: Offsets, average: Codes, disabled: float, keys: list[int], threads: int
) -> Population:
    child = parents.take(fitter)
    made: dict[str, Any] = {}
    for key, name, values, codes in (
        (keys[0], "node", ("bias", "response"), ("activation", "aggregation")),
        (keys[1], "link", ("weight",), ()),
    ):
        offsets, theirs, at = _matching(parents, child, name, other)
        switched = hashing.words(key, at) >> np.uint64(63) == 1
        mean = np.repeat(average, np.diff(offsets))[at] > 0
        for value in values:
            mine, partner = getattr(child, value), getattr(parents, value)[theirs]
            made[value] = mine.copy()
            chosen = np.where(switched, partner, mine[at])
            made[value][at] = np.where(mean, (mine[at] + partner) * 0.5, chosen)
        for code in codes:
            mine = getattr(child, code)
            made[code] = mine.copy()
            made[code][at] = np.where(switched, getattr(parents, code)[theirs], mine[at])
    enabled = child.enabled.copy()
    enabled[at] &= parents.enabled[theirs]
    off = np.flatnonzero((enabled == 0) & np.repeat(other >= 0, np.diff(child.link_offsets)))
    enabled[off] = hashing.uniforms(keys[2], off) >= disabled
    return replace(child, **made, enabled=enabled)


def _matching(parents: Population, child: Population, name: str, other: Offsets) -> tuple[Offsets, Offsets, Offsets]:
    """The children's offsets, positions of genes of `other` that match genes of a child, and positions of those."""
    offsets, marks = getattr(child, f"{name}_offsets"), getattr(child, f"{name}_mark")
    known = _owned(getattr(parents, f"{name}_offsets"), getattr(parents, f"{name}_mark"))
    found = _find(known, (np.repeat(other, np.diff(offsets)) << 32) + marks)
    at = np.flatnonzero(found >= 0)
    return offsets, found[at], at


def _with_unions(
    population: Population, fitter: Offsets, other: Offsets, tied: Offsets, settings: BreedingSettings, threads: int
) -> tuple[Population, Offsets]:
    """The population with a genome of both parents' genes for each tied pair, and the indices with these as fitter."""
    if not len(tied):
        return population, fitter
    unions = _unions(population, fitter[tied], other[tied], threads)
    fits = _fits(settings, unions)
    parents, fitter = Population.joined([population, unions]), fitter.copy()
    fitter[tied[fits]] = len(population) + np.flatnonzero(fits)
    return parents, fitter


def _unions(population: Population, first: Offsets, second: Offsets, threads: int) -> Population:
    """The genes of both genomes of each pair; matching ones as the first has them."""
    pairs = len(first)
    both = population.take(np.concatenate((first, second)))
    columns: list[Any] = []
    for name, names in (("node", NODES), ("link", LINKS)):
        offsets, marks = getattr(both, f"{name}_offsets"), getattr(both, f"{name}_mark")
        pair = np.repeat(np.arange(2 * pairs) % pairs, np.diff(offsets))
        key = (pair << 32) + marks
        order = np.argsort(key, kind="stable")
        order = order[np.diff(key[order], prepend=-1) != 0]
        columns += [_offsets(np.bincount(pair[order], minlength=pairs)), *[getattr(both, one)[order] for one in names]]
    union = Population(*population.shape, *columns)
    if not population.feed_forward:
        return union
    used = (order < both.link_offsets[pairs]).astype(np.uint8)
    _keep_acyclic(union, used, threads)
    return _without(union, "link", used == 0)


def _keep_acyclic(union: Population, used: Codes, threads: int) -> None:
    """Sets `used`, 0 for added links, to 1 for those of them, in order, that close no cycle with the used ones."""
    if _kernels():
        _run("keep_acyclic", len(union), threads, union.inputs, *_genes(union), *_most(union), used)
        return
    for i in range(len(union)):
        links = slice(union.link_offsets[i], union.link_offsets[i + 1])
        pairs = list(zip(union.source[links].tolist(), union.target[links].tolist(), strict=True))
        onward: dict[int, list[int]] = {}
        for (source, target), kept in zip(pairs, used[links].tolist(), strict=True):
            if kept:
                onward.setdefault(source, []).append(target)
        for k, (source, target) in enumerate(pairs, links.start):
            if not used[k] and not _leads(onward, target, source):
                used[k] = 1
                onward.setdefault(source, []).append(target)


def _leads(onward: Mapping[int, Sequence[int]], start: int, goal: int) -> bool:
    """Whether links lead from one node to another."""
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if node == goal:
            return True
        fresh = [after for after in onward.get(node, ()) if after not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return False


# --------------------------------------------------------------------------------------------------------- mutation


def mutate(
    population: Population, which: Flags, settings: BreedingSettings, book: MarkBook, seed: int, threads: int = 1
) -> tuple[Population, Edits]:
    """The population with the genomes of `which` (n,) mutated, and their structural edits by position.

    Values first, then structure, so that new genes are as they are made. Edits: add_node (link; node, link in, link
    out), add_link (source, target; link), toggle (link), remove_node (node), remove_link (link)."""
    which = np.asarray(which, bool)
    population = _values_mutated(population, which, settings, seed, threads)
    return _restructured(population, which, settings, book, seed, threads)


def _values_mutated(
    population: Population, which: Flags, settings: BreedingSettings, seed: int, threads: int
) -> Population:
    genomes = np.arange(len(population))
    touched = which & (hashing.uniforms(hashing.key_of(seed, "values"), genomes) < settings.mutate_weights)
    links = np.repeat(touched, np.diff(population.link_offsets)).view(np.uint8)
    nodes = np.repeat(touched, np.diff(population.node_offsets)).view(np.uint8)
    made: dict[str, Any] = {}
    for name, gene, flags in (
        ("weight", settings.weight, links),
        ("bias", settings.bias, nodes),
        ("response", settings.response, nodes),
    ):
        if gene.mutate + gene.replace > 0:
            made[name] = _varied(getattr(population, name), flags, gene, seed, name, threads)
    everywhere = np.repeat(which, np.diff(population.node_offsets))
    for name, choice in (("activation", settings.activation), ("aggregation", settings.aggregation)):
        if choice.mutate > 0:
            made[name] = _chosen(getattr(population, name), everywhere, choice, seed, name)
    return replace(population, **made) if made else population


def _varied(values: Reals, touched: Codes, gene: ValueGene, seed: int, name: str, threads: int) -> Reals:
    decide, size = (hashing.key_of(seed, f"{name} {what}") for what in ("decide", "size"))
    either = gene.mutate + gene.replace
    made = np.empty_like(values)
    if _kernels():
        how = _Value(
            gene.mean, gene.deviation, gene.min, gene.max, gene.mutate, either, gene.power,
            gene.draw == "gauss", gene.perturb == "gauss",
        )  # fmt: skip
        _run("vary", len(values), threads, values, touched, how, decide, size, made)
        return made
    made[:] = values
    at = np.flatnonzero(touched)
    chance = hashing.uniforms(decide, at)
    perturbed, drawn = at[chance < gene.mutate], at[(chance >= gene.mutate) & (chance < either)]
    change = hashing.normals if gene.perturb == "gauss" else hashing.spread
    made[perturbed] = np.clip(values[perturbed] + gene.power * change(size, perturbed), gene.min, gene.max)
    made[drawn] = _drawn(gene, size, drawn)
    return made


def _chosen(codes: Codes, touched: Flags, gene: ChoiceGene, seed: int, name: str) -> Codes:
    at = np.flatnonzero(touched)
    at = at[hashing.uniforms(hashing.key_of(seed, f"{name} decide"), at) < gene.mutate]
    made = codes.copy()
    made[at] = _options(gene, hashing.key_of(seed, f"{name} option"), at)
    return made


# ----------------------------------------------------------------------------------------------- structural mutation


@dataclass(frozen=True)
class _Site:
    """What structural mutations draw from: `child` holds the genomes' positions in the whole population."""

    settings: BreedingSettings
    book: MarkBook
    seed: int
    child: Offsets
    threads: int

    def uniforms(self, purpose: str, at: Offsets) -> Reals:
        return hashing.uniforms(hashing.key_of(self.seed, purpose), self.child[at])


Change = Callable[[Population, Offsets, _Site], tuple[Population, list[tuple[int, Edit]]]]


def _restructured(
    population: Population, which: Flags, settings: BreedingSettings, book: MarkBook, seed: int, threads: int
) -> tuple[Population, Edits]:
    drawn = _drawn_changes(settings.structure, which, seed)
    changed = np.flatnonzero(np.logical_or.reduce(list(drawn.values())))
    if not len(changed):
        return population, {}
    if 2 * len(changed) > len(population):
        # to change all in place is then cheaper than to gather some and put them back
        changed, part = np.arange(len(population)), population
    else:
        part = population.take(changed)
    site = _Site(settings, book, seed, changed, threads)
    edits: list[list[Edit]] = [[] for _ in changed]
    for name, change in CHANGES.items():
        at = np.flatnonzero(drawn[name][changed])
        if len(at):
            part, done = change(part, at, site)
            for i, edit in done:
                edits[i].append(edit)
    made = {i: tuple(own) for i, own in zip(changed.tolist(), edits, strict=True) if own}
    return part if len(part) == len(population) else _replaced(population, changed, part), made


def _drawn_changes(structure: Structure, which: Flags, seed: int) -> dict[str, Flags]:
    """The genomes that each kind of change was drawn for, (n,) by name."""
    genomes = np.arange(len(which))
    rates = {name: float(getattr(structure, name)) for name in CHANGES}
    if not structure.single:
        draws = {name: hashing.uniforms(hashing.key_of(seed, name), genomes) for name in rates if rates[name] > 0}
        none = np.zeros(len(which), bool)
        return {name: which & (draws[name] < rate) if rate > 0 else none for name, rate in rates.items()}
    draw = hashing.uniforms(hashing.key_of(seed, "single change"), genomes) * max(1.0, sum(rates.values()))
    ends = np.cumsum(list(rates.values()))
    at = np.searchsorted(ends, draw, "right")
    return {name: which & (at == i) for i, name in enumerate(rates)}


def _replaced(population: Population, at: Offsets, part: Population) -> Population:
    """The population with the genomes `at` replaced by those of `part`."""
    count = len(population)
    index = np.arange(count)
    index[at] = count + np.arange(len(at))
    if not _kernels():
        return Population.joined([population, part]).take(index)
    kept, new = np.where(index < count, index, -1), np.where(index < count, -1, index - count)
    arrays: list[Any] = []
    for kind, (offsets, names) in enumerate(GENES.values()):
        sizes = np.diff(getattr(population, offsets))
        sizes[at] = np.diff(getattr(part, offsets))
        made = _empty(_offsets(sizes), names)
        for chosen, source in ((kept, population), (new, part)):
            _run("gather", count, 1, kind, chosen, _genes(source)[kind], _Genes.of(made))
        arrays += made
    return Population(*population.shape, *arrays)


def _empty(offsets: Offsets, names: Sequence[str]) -> list[Column]:
    """The offsets, then arrays for the genes they count."""
    return [offsets, *[np.empty(offsets[-1], TYPES[name]) for name in names]]


def _fits(settings: BreedingSettings, population: Population, nodes: int = 0, links: int = 0) -> Flags:
    """The genomes that may have this many more nodes and links, (n,)."""
    fits = np.ones(len(population), bool)
    if settings.bounds.hidden is not None:
        fits &= np.diff(population.node_offsets) - population.outputs + nodes <= settings.bounds.hidden
    if settings.bounds.connections is not None:
        fits &= np.diff(population.link_offsets) + links <= settings.bounds.connections
    return fits


def _add_nodes(part: Population, at: Offsets, site: _Site) -> tuple[Population, list[tuple[int, Edit]]]:
    at = at[_fits(site.settings, part, nodes=1, links=2)[at]]
    at, split = _picked(part.link_offsets, part.enabled != 0, at, site.uniforms("split", at))
    edits, marks, ends = [], [], []
    columns = (
        at,
        part.node_offsets[at],
        part.node_offsets[at + 1],
        part.link_mark[split],
        part.source[split],
        part.target[split],
    )
    for i, first, last, link, source, target in zip(*(column.tolist() for column in columns), strict=True):
        node = site.book.node(source, target, taken=part.node_mark[first:last].tolist())
        made = (node, site.book.edge(source, node), site.book.edge(node, target))
        edits.append((i, Edit("add_node", where=(link,), made=made)))
        marks.append(made)
        ends.append((source, node, node, target))
    if not edits:
        return part, []
    marked, placed = np.array(marks), np.array(ends)
    nodes = (
        marked[:, 0], np.zeros(len(at)), np.ones(len(at)),
        _first_choices(site.settings.activation, hashing.key_of(site.seed, "new activation"), site.child[at]),
        _first_choices(site.settings.aggregation, hashing.key_of(site.seed, "new aggregation"), site.child[at]),
    )  # fmt: skip
    weights = np.stack((np.ones(len(at)), part.weight[split]), axis=1).ravel()
    links = marked[:, 1:].ravel(), placed[:, ::2].ravel(), placed[:, 1::2].ravel(), weights, np.ones(2 * len(at))
    enabled = part.enabled.copy()
    enabled[split] = 0
    part = _with(replace(part, enabled=enabled), "node", at, nodes)
    return _with(part, "link", np.repeat(at, 2), links), edits


def _add_links(part: Population, at: Offsets, site: _Site) -> tuple[Population, list[tuple[int, Edit]]]:
    at = at[_fits(site.settings, part, links=1)[at]]
    source, target, link = _places(part, at, site)
    edits = []
    for i, a, b, known in zip(at.tolist(), source.tolist(), target.tolist(), link.tolist(), strict=True):
        if known >= 0:
            edits.append((i, _toggled(part, known, True)))
        elif b >= 0:
            edits.append((i, Edit("add_link", where=(a, b), made=(site.book.edge(a, b),))))
    enabled = part.enabled.copy()
    enabled[link[link >= 0]] = 1
    new = np.flatnonzero((link < 0) & (target >= 0))
    marks = np.array([edit.made[0] for _, edit in edits if edit.made], np.int64)
    weights = _drawn(site.settings.weight, hashing.key_of(site.seed, "new weight"), site.child[at[new]])
    columns = marks, source[new], target[new], weights, np.ones(len(new))
    return _with(replace(part, enabled=enabled), "link", at[new], columns), edits


TRIES = 20
"""Draws of a place for a new link, as in the program of the paper's author."""


def _places(part: Population, at: Offsets, site: _Site) -> tuple[Ints, Ints, Offsets]:
    """For each genome `at` the ends of a link it can get, the target -1 if none was found, and the position of that
    link if it has it disabled, else -1."""
    source, target, link = np.full(len(at), -1, np.int32), np.full(len(at), -1, np.int32), np.full(len(at), -1)
    keys = [hashing.key_of(site.seed, purpose) for purpose in ("source", "target")]
    child = site.child[at]
    if _kernels():
        _run(
            "place_links", len(at), site.threads, at, child, TRIES, part.feed_forward, part.inputs, *_genes(part),
            *keys, *_most(part), source, target, link,
        )  # fmt: skip
        return source, target, link
    for k, i in enumerate(at.tolist()):
        tries = child[k] * TRIES + np.arange(TRIES)
        source[k], target[k], link[k] = _place(part, i, tries, keys)
    return source, target, link


def _place(part: Population, i: int, tries: Offsets, keys: list[int]) -> tuple[int, int, int]:
    nodes = part.node_mark[part.node_offsets[i] : part.node_offsets[i + 1]].tolist()
    links = slice(int(part.link_offsets[i]), int(part.link_offsets[i + 1]))
    known: dict[tuple[int, int], int] = {}
    onward: dict[int, list[int]] = {}
    for link, a, b in zip(
        range(links.start, links.stop), part.source[links].tolist(), part.target[links].tolist(), strict=True
    ):
        known[a, b] = link
        onward.setdefault(a, []).append(b)
    sources = [*range(part.inputs), *nodes]
    froms = hashing.below(keys[0], tries, np.full(len(tries), len(sources))).tolist()
    tos = hashing.below(keys[1], tries, np.full(len(tries), len(nodes))).tolist()
    for source, target in ((sources[a], nodes[b]) for a, b in zip(froms, tos, strict=True)):
        link = known.get((source, target), -1)
        if link >= 0 and not part.enabled[link]:
            return source, target, link
        if link < 0 and not (part.feed_forward and _leads(onward, target, source)):
            return source, target, -1
    return -1, -1, -1


def _toggle(part: Population, at: Offsets, site: _Site) -> tuple[Population, list[tuple[int, Edit]]]:
    at, link = _picked(part.link_offsets, np.ones(len(part.link_mark), bool), at, site.uniforms("toggled", at))
    enabled = part.enabled.copy()
    enabled[link] ^= 1
    return replace(part, enabled=enabled), [
        (i, _toggled(part, one, bool(enabled[one]))) for i, one in zip(at.tolist(), link.tolist(), strict=True)
    ]


def _toggled(part: Population, link: int, enabled: bool) -> Edit:
    return Edit("toggle", where=(int(part.link_mark[link]),), args={"enabled": enabled})


def _remove_nodes(part: Population, at: Offsets, site: _Site) -> tuple[Population, list[tuple[int, Edit]]]:
    hidden = part.node_mark >= part.inputs + part.outputs
    at, node = _picked(part.node_offsets, hidden, at, site.uniforms("removed node", at))
    gone = np.full(len(part), -1)
    gone[at] = part.node_mark[node]
    edits = [(i, Edit("remove_node", where=(mark,))) for i, mark in zip(at.tolist(), gone[at].tolist(), strict=True)]
    lost = np.repeat(gone, np.diff(part.link_offsets))
    dropped = np.zeros(len(hidden), bool)
    dropped[node] = True
    part = _without(part, "link", (part.source == lost) | (part.target == lost))
    return _without(part, "node", dropped), edits


def _remove_links(part: Population, at: Offsets, site: _Site) -> tuple[Population, list[tuple[int, Edit]]]:
    dropped = np.zeros(len(part.link_mark), bool)
    at, link = _picked(part.link_offsets, ~dropped, at, site.uniforms("removed link", at))
    dropped[link] = True
    marks = part.link_mark[link].tolist()
    edits = [(i, Edit("remove_link", where=(mark,))) for i, mark in zip(at.tolist(), marks, strict=True)]
    return _without(part, "link", dropped), edits


CHANGES: dict[str, Change] = {
    "add_node": _add_nodes,
    "remove_node": _remove_nodes,
    "add_link": _add_links,
    "remove_link": _remove_links,
    "toggle": _toggle,
}
"""Structural mutations in the order in which a child with several gets them."""


def _picked(offsets: Offsets, possible: Flags, at: Offsets, draws: Reals) -> tuple[Offsets, Offsets]:
    """Of the genomes `at` those with a possible gene, and the position of one of these, all equally likely."""
    places = np.flatnonzero(possible)
    first, last = np.searchsorted(places, offsets[at]), np.searchsorted(places, offsets[at + 1])
    some = first < last
    return at[some], places[(first + (draws * (last - first)).astype(np.int64))[some]]


def _with(part: Population, name: str, owner: Offsets, columns: tuple[Column, ...]) -> Population:
    """The genomes with new nodes or links: `columns` in the order of the fields, `owner` the genome of each."""
    order = np.argsort((owner << 32) + columns[0], kind="stable")
    _, names = GENES[name]
    new = [column[order].astype(TYPES[one]) for one, column in zip(names, columns, strict=True)]
    none = np.zeros(len(getattr(part, names[0])), bool)
    return _spliced(part, name, none, _offsets(np.bincount(owner, minlength=len(part))), new)


def _without(part: Population, name: str, dropped: Flags) -> Population:
    """The genomes without the nodes or links that are `dropped`."""
    if not dropped.any():
        return part
    new = _empty(np.zeros(len(part) + 1, np.int64), GENES[name][1])
    return _spliced(part, name, dropped, new[0], new[1:])


def _spliced(part: Population, name: str, dropped: Flags, new_offsets: Offsets, new: list[Column]) -> Population:
    offsets_name, names = GENES[name]
    offsets = getattr(part, offsets_name)
    lost = np.searchsorted(offsets, np.flatnonzero(dropped), "right") - 1
    made = _empty(offsets - _offsets(np.bincount(lost, minlength=len(part))) + new_offsets, names)
    if _kernels():
        kind = list(GENES).index(name)
        _run("splice", len(part), 1, kind, _genes(part)[kind], dropped, _Genes.of([new_offsets, *new]), _Genes.of(made))
    else:
        old = np.flatnonzero(~dropped)
        keys = _owned(offsets, getattr(part, names[0]))[old], _owned(new_offsets, new[0])
        order = np.argsort(np.concatenate(keys), kind="stable")
        made[1:] = [np.concatenate((getattr(part, one)[old], add))[order] for one, add in zip(names, new, strict=True)]
    arrays: dict[str, Any] = dict(zip((offsets_name, *names), made, strict=True))
    return replace(part, **arrays)


def _owned(offsets: Offsets, marks: Ints) -> Offsets:
    """Genome and mark of every gene as one ascending number."""
    genome = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.asarray((genome << 32) + marks, np.int64)


def _find(ascending: Offsets, wanted: Offsets) -> Offsets:
    """Where each of `wanted` stands, or -1."""
    if not len(ascending):
        return np.full(len(wanted), -1)
    at = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return np.asarray(np.where(ascending[at] == wanted, at, -1), np.int64)


# --------------------------------------------------------------------------------------------------------- distance

LANES = 16
"""Representatives that one visit of a gene serves."""
SMALL = 20
"""Genomes with fewer links are compared without dividing by their number."""


def distances(
    population: Population, representatives: Population, settings: DistanceSettings, threads: int = 1
) -> Reals:
    """Compatibility distances, (n,) genomes and (s,) representatives -> (n, s)."""
    gap = (_normalised if settings.formula == "normalised" else _by_links)(
        population, representatives, settings, threads
    )
    made = np.empty((len(population), len(representatives)))
    for first in range(0, len(made), ROWS):
        rows = slice(first, first + ROWS)
        made[rows] = gap(rows)
    return made


ROWS = 2048
"""Genomes whose distances are put together at a time, so that what lies between stays in the cache."""

Gap = Callable[[slice], Reals]
"""Distances of some rows of the population."""


def _by_links(population: Population, representatives: Population, settings: DistanceSettings, threads: int) -> Gap:
    ours, theirs = np.diff(population.link_offsets), np.diff(representatives.link_offsets)
    shared, apart = _overlap(population, representatives, "link", ("weight",), (), threads)
    same = settings.excess == settings.disjoint
    excess = None if same else _excess(population, representatives, threads)

    def gap(rows: slice) -> Reals:
        unmatched = ours[rows, None] + theirs - 2.0 * shared[rows]
        if excess is None:
            distance = settings.disjoint * unmatched
        else:
            distance = settings.excess * excess[rows] + settings.disjoint * (unmatched - excess[rows])
        if settings.formula == "paper":
            larger = np.maximum(ours[rows, None], theirs)
            distance = distance / np.where(larger < SMALL, 1, larger)
        return np.asarray(distance + settings.weight * (apart[rows] / np.maximum(shared[rows], 1.0)))

    return gap


def _normalised(population: Population, representatives: Population, settings: DistanceSettings, threads: int) -> Gap:
    """What neat-python counts: 1 per unmatched gene and the differences of matching ones, by kind of gene."""
    kinds = (("node", ("bias", "response"), ("activation", "aggregation")), ("link", ("weight",), ("enabled",)))
    counted = [
        (
            *(np.diff(getattr(one, f"{name}_offsets")) for one in (population, representatives)),
            *_overlap(population, representatives, name, values, codes, threads),
        )
        for name, values, codes in kinds
    ]

    def gap(rows: slice) -> Reals:
        nodes, links = (
            (settings.weight * apart[rows] + settings.disjoint * (ours[rows, None] + theirs - 2.0 * shared[rows]))
            / np.maximum(np.maximum(ours[rows, None], theirs), 1)
            for ours, theirs, shared, apart in counted
        )
        return np.asarray(nodes + links)

    return gap


def _overlap(
    population: Population,
    representatives: Population,
    name: str,
    values: tuple[str, ...],
    codes: tuple[str, ...],
    threads: int,
) -> tuple[Reals, Reals]:
    """Numbers of matching genes and sums of their differences, (n, s) each."""
    blocks = [
        _overlap_block(population, representatives[start : start + LANES], name, values, codes, threads)
        for start in range(0, max(len(representatives), 1), LANES)
    ]
    shared, apart = (np.concatenate([block[i] for block in blocks], axis=1) for i in (0, 1))
    return shared[:, : len(representatives)], apart[:, : len(representatives)]


def _overlap_block(
    population: Population, block: Population, name: str, values: tuple[str, ...], codes: tuple[str, ...], threads: int
) -> tuple[Reals, Reals]:
    """The same for at most 16 representatives: tables with a row for each of their marks, a column for each of them."""
    offsets, marks = getattr(population, f"{name}_offsets"), getattr(population, f"{name}_mark")
    block_marks = getattr(block, f"{name}_mark")
    rows, row = np.unique(block_marks, return_inverse=True)
    lane = np.repeat(np.arange(len(block)), np.diff(getattr(block, f"{name}_offsets")))
    # row 0 is for marks that none of them has
    row_of = np.zeros(int(rows[-1]) + 1 if len(rows) else 1, np.int32)
    row_of[rows] = np.arange(1, len(rows) + 1)

    table = np.zeros((len(rows) + 1, 1 + len(values) + len(codes), LANES))
    table[row + 1, 0, lane] = 1.0
    for column, one in enumerate((*values, *codes), 1):
        table[row + 1, column, lane] = getattr(block, one)
    if not _kernels():
        return _overlap_slowly(population, name, values, codes, row_of, table)
    shared, apart = np.empty((len(population), LANES)), np.empty((len(population), LANES))
    columns = [[getattr(population, one) for one in names] for names in (values, codes)]
    _run(
        "overlap", len(population), threads, offsets, marks, len(row_of), row_of, table,
        len(values), _addresses(columns[0]), len(codes), _addresses(columns[1]), shared, apart,
    )  # fmt: skip
    return shared, apart


def _overlap_slowly(
    population: Population, name: str, values: tuple[str, ...], codes: tuple[str, ...], row_of: Ints, table: Reals
) -> tuple[Reals, Reals]:
    offsets, marks = getattr(population, f"{name}_offsets"), getattr(population, f"{name}_mark")
    known = np.flatnonzero(marks < len(row_of))
    row = row_of[marks[known]]
    known, row = known[row > 0], row[row > 0]
    owner = np.repeat(np.arange(len(population)), np.diff(offsets))[known]
    shared, apart = np.zeros((len(population), LANES)), np.zeros((len(population), LANES))
    for lane in np.flatnonzero(table[:, 0].any(axis=0)):
        present, *others = np.ascontiguousarray(table[:, :, lane].T)
        hit = np.flatnonzero(present[row])
        gap = np.zeros(len(hit))
        for one, theirs in zip((*values, *codes), others, strict=True):
            mine, their = getattr(population, one)[known[hit]], theirs[row[hit]]
            gap += np.abs(mine - their) if one in values else mine != their
        # bincount adds one by one in order, as the kernel does
        shared[:, lane] = np.bincount(owner[hit], minlength=len(population))
        apart[:, lane] = np.bincount(owner[hit], gap, minlength=len(population))
    return shared, apart


def _excess(population: Population, representatives: Population, threads: int) -> Reals:
    """Links of either that are newer than all of the other's, (n, s)."""
    ours = _beyond(population, representatives, threads)
    return np.asarray(ours + _beyond(representatives, population, threads).T)


def _beyond(population: Population, others: Population, threads: int) -> Reals:
    """Counts of each genome's links that are newer than all of each other genome's."""
    sizes = np.diff(others.link_offsets)
    newest = np.full(len(others), -1, np.int32)
    newest[sizes > 0] = others.link_mark[others.link_offsets[1:][sizes > 0] - 1]
    above = np.empty((len(population), len(others)))
    if _kernels():
        _run(
            "beyond",
            len(population),
            threads,
            population.link_offsets,
            population.link_mark,
            newest,
            len(others),
            above,
        )
        return above
    known = _owned(population.link_offsets, population.link_mark)
    limits = (np.arange(len(population)) << 32)[:, None] + newest
    return np.asarray(population.link_offsets[1:, None] - np.searchsorted(known, limits, "right"), float)


# ---------------------------------------------------------------------------------------------------------- kernels

_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "u": ctypes.c_uint64, "d": ctypes.c_double}
_SIGNATURES = {
    "vary": "pppuup", "mate": "pppppppduuu", "place_links": "ppiiippuuiiippp", "keep_acyclic": "ippiiip",
    "overlap": "ppippipippp", "beyond": "pppip", "gather": "ippp", "splice": "ipppp",
}  # fmt: skip
"""Arguments after first and last: pointer, integer, unsigned, double."""


GRAIN = 512
"""Genomes that are worth waking a thread for, at about a microsecond each."""


class _Genes(ctypes.Structure):
    """Where the nodes or the links of a population lie: their offsets, then five arrays."""

    _fields_: ClassVar = [("arrays", ctypes.c_void_p * 6)]

    @staticmethod
    def of(arrays: Sequence[Column]) -> _Genes:
        return _Genes((ctypes.c_void_p * 6)(*[array.ctypes.data for array in arrays]))


class _Value(ctypes.Structure):
    """How numbers vary."""

    _fields_: ClassVar = [
        *((name, ctypes.c_double) for name in ("mean", "deviation", "least", "most", "mutate", "either", "power")),
        *((name, ctypes.c_int64) for name in ("gauss_draw", "gauss_perturb")),
    ]


@cache
def _kernels() -> ctypes.CDLL | None:
    kernels = native.library("breeding")
    if kernels is not None:
        for name, kinds in _SIGNATURES.items():
            function = getattr(kernels, name)
            function.argtypes = [ctypes.c_int64, ctypes.c_int64, *[_TYPES[kind] for kind in kinds]]
            function.restype = ctypes.c_int if name in ("place_links", "keep_acyclic") else None
    return kernels


def _run(name: str, count: int, threads: int, *arguments: Any) -> None:
    """Calls a kernel for items 0 .. count-1. Arrays and structures are passed by address."""
    function = getattr(_kernels(), name)
    passed = [_passed(argument) for argument in arguments]

    def work(first: int, last: int) -> None:
        if function(first, last, *passed) == 0:
            raise MemoryError(f"no memory left to breed {count} genomes: make the population smaller")

    native.split(work, count, threads, GRAIN)


def _passed(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data
    return ctypes.addressof(argument) if isinstance(argument, ctypes.Structure | ctypes.Array) else argument


def _addresses(columns: Sequence[Column]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(columns), 1))(*[column.ctypes.data for column in columns])


def _genes(population: Population) -> tuple[_Genes, _Genes]:
    nodes, links = (
        _Genes.of([getattr(population, name) for name in (offsets, *names)]) for offsets, names in GENES.values()
    )
    return nodes, links


def _most(population: Population) -> tuple[int, int, int]:
    """Most nodes and links of a genome, and the highest mark of a node or input."""
    nodes, links = (int(np.diff(one).max(initial=0)) for one in (population.node_offsets, population.link_offsets))
    return nodes, links, max(int(population.node_mark.max(initial=0)), population.inputs)
