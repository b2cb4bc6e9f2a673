"""A whole population of different networks as one set of packed programs, evaluated at once.

`pack` turns genes into programs: what the outputs do not need is left out, nodes are sorted by (level, activation),
links lie by destination. `activate`, `sequence` and `Stepper` evaluate them in float32 by compiled kernels, by numba or
by torch; `reference` does it slowly and obviously in float64. Networks compute what neat-python's networks do."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evonas import native
from evonas.core import DataError, RecipeError
from evonas.encoding.population import Population
from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS

Floats = NDArray[np.float32]
Reals = NDArray[np.float64]
Index = NDArray[np.int64]
Kernel = Literal["auto", "c", "numba", "torch", "numpy"]

IDENTITY, SUM = ACTIVATIONS.index("identity"), AGGREGATIONS.index("sum")

_NODES: Mapping[str, str] = {"activation": "u1", "aggregation": "u1", "bias": "f4", "response": "f4", "level": "i4"}
_LINKS: Mapping[str, str] = {"link_slot": "i4", "link_weight": "f4", "link_gene": "i8"}
_FIELDS = (
    "n", "inputs", "outputs", "feed_forward", "slots", "node_offsets", "activation", "aggregation", "bias", "response",
    "link_offsets", "link_slot", "link_weight", "output_slot",
)  # fmt: skip
"""As `Programs` in kernels/network.h."""
_GENES = (
    "inputs", "outputs", "feed_forward", "node_offsets", "node_mark", "bias", "response", "activation", "aggregation",
    "link_offsets", "source", "target", "weight", "enabled",
)  # fmt: skip
_PACKED = (
    "node_offsets", "activation", "aggregation", "bias", "response", "level", "link_offsets", "link_slot",
    "link_weight", "output_slot", "node_mark", "link_gene", "node_gene",
)  # fmt: skip
_TILES = ("x", "shared", "steps", "batch", "hold", "every", "state", "out")
_SLICES = (
    "copies", "chunk_row", "chunk_node", "chunk_slice", "chunk_value", "order", "size", "width", "link", "activation",
    "aggregation", "bias", "response", "degree", "index", "weight", "output", "position", "state",
)  # fmt: skip
_ARGUMENTS: Mapping[str, Mapping[str, int]] = {
    "pack": {"pack": 5},
    "tiles": {"turn": 6, "tiles": 5},
    "slices": {"arrange": 5, "fill": 7, "slices": 9},
}
"""How many arguments the functions of each source have."""

GRAIN = 256
"""Genomes to compile, or evaluations of 64 inputs, that are worth waking a thread for."""

L1_FLOATS = 6144
"""Values of networks that are computed together stay within 24 kB, half of a common first-level cache."""


# ---------------------------------------------------------------------------------------------------------- programs


@dataclass(frozen=True, eq=False, repr=False)
class Programs:
    """n networks ready to be computed; all arrays are contiguous and read-only.

    A network's value array holds its inputs, then its nodes in order (level, activation, mark). Its nodes are
    `node_offsets[i]:node_offsets[i+1]`, the links into node k `link_offsets[k]:link_offsets[k+1]`; `link_slot` and
    `output_slot` name places in the value array. A node's value is activation(bias + response * aggregation(weight *
    value)). `node_gene` and `link_gene` are places in the population's arrays, -1 for a recurrent node without links,
    which is the constant 0 whatever its gene says."""

    n: int
    inputs: int
    outputs: int
    feed_forward: bool
    node_offsets: Index  # (n+1,)
    activation: NDArray[np.uint8]
    aggregation: NDArray[np.uint8]
    bias: Floats
    response: Floats
    level: NDArray[np.int32]  # 0: needs nothing but inputs; recurrent: always 0
    link_offsets: Index  # (nodes+1,)
    link_slot: NDArray[np.int32]
    link_weight: Floats
    output_slot: NDArray[np.int32]  # (n*outputs,)
    node_mark: NDArray[np.int32]
    link_gene: Index
    node_gene: Index

    def __post_init__(self) -> None:
        for field in fields(self)[4:]:
            getattr(self, field.name).flags.writeable = False

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Programs({self.n} networks, {len(self.bias)} nodes, {len(self.link_slot)} links)"

    @cached_property
    def slots(self) -> int:
        """Length of a value array that any of the networks fits in."""
        return self.inputs + int(np.diff(self.node_offsets).max(initial=0))

    @cached_property
    def _table(self) -> Index:
        return _addresses(self, _FIELDS)

    @property
    def address(self) -> int:
        """Where a C kernel finds the `Programs` of kernels/network.h; valid while this object lives."""
        return int(self._table.ctypes.data)

    def take(self, indices: ArrayLike) -> Programs:
        """The networks at these positions, in this order, as often as they are named."""
        chosen = np.asarray(indices, dtype=np.int64)
        nodes, node_offsets = _ranges(self.node_offsets, chosen)
        links, link_offsets = _ranges(self.link_offsets, nodes)
        own = {name: getattr(self, name)[nodes] for name in (*_NODES, "node_mark", "node_gene")}
        own |= {name: getattr(self, name)[links] for name in _LINKS}
        output_slot = self.output_slot.reshape(self.n, self.outputs)[chosen].ravel()
        own |= {"node_offsets": node_offsets, "link_offsets": link_offsets, "output_slot": output_slot}
        return Programs(len(chosen), self.inputs, self.outputs, self.feed_forward, **own)


def _ranges(offsets: Index, chosen: Index) -> tuple[Index, Index]:
    """The members of the chosen ranges of `offsets`, one range after the other, and the offsets these then have."""
    sizes = offsets[chosen + 1] - offsets[chosen]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return np.arange(ends[-1]) + np.repeat(offsets[chosen] - ends[:-1], sizes), ends


def _addresses(owner: Any, names: Iterable[str]) -> Index:
    """Numbers as they are, arrays as their addresses: a C structure of 8-byte fields, as long as the owner lives."""
    held = owner if isinstance(owner, dict) else {name: getattr(owner, name) for name in names}
    return np.array(
        [int(v.ctypes.data) if isinstance(v, np.ndarray) else int(v) for v in (held[name] for name in names)], np.int64
    )


@cache
def _kernels(name: Literal["pack", "tiles", "slices"]) -> ctypes.CDLL | None:
    library = native.library(name)
    if library is not None:
        for kernel, count in _ARGUMENTS[name].items():
            function = getattr(library, kernel)
            function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p] * count
    return library


# --------------------------------------------------------------------------------------------------------------- pack


def pack(population: Population, indices: ArrayLike | None = None, threads: int = 1) -> Programs:
    """Genes into programs, of all genomes or of those at `indices`. DataError where a feed-forward genome has a cycle
    or a link has no node at an end."""
    chosen = np.arange(len(population)) if indices is None else np.ascontiguousarray(indices, dtype=np.int64)
    library = _kernels("pack")
    return _pack_numpy(population, chosen) if library is None else _pack_compiled(library, population, chosen, threads)


def _pack_compiled(library: ctypes.CDLL, population: Population, chosen: Index, threads: int) -> Programs:
    genes = _addresses(population, _GENES)
    node_sizes, link_sizes = (np.diff(o)[chosen] for o in (population.node_offsets, population.link_offsets))
    pieces: dict[int, dict[str, NDArray[Any]]] = {}

    def work(first: int, last: int) -> None:
        nodes, links = int(node_sizes[first:last].sum()), int(link_sizes[first:last].sum())
        made = _blank(last - first, nodes, links, population.outputs)
        table = _addresses(made, _PACKED)
        failed = library.pack(genes.ctypes.data, chosen.ctypes.data, table.ctypes.data, first, last)
        if failed:
            raise MemoryError if failed == -1 - last else _broken(population, int(chosen[-1 - failed]))
        pieces[first] = _trimmed(made)

    native.split(work, len(chosen), threads, GRAIN)
    parts = [pieces[first] for first in sorted(pieces)]
    whole = parts[0] if len(parts) == 1 else _in_line(parts)
    return Programs(len(chosen), population.inputs, population.outputs, population.feed_forward, **whole)


def _blank(n: int, nodes: int, links: int, outputs: int) -> dict[str, NDArray[Any]]:
    kinds = {name: (nodes, kind) for name, kind in _NODES.items()} | {
        name: (links, kind) for name, kind in _LINKS.items()
    }
    kinds |= {"node_offsets": (n + 1, "i8"), "link_offsets": (nodes + 1, "i8"), "output_slot": (n * outputs, "i4")}
    made = _in_one_piece(kinds | {"node_mark": (nodes, "i4"), "node_gene": (nodes, "i8")})
    made["node_offsets"][0] = made["link_offsets"][0] = 0
    return made


def _in_one_piece(kinds: Mapping[str, tuple[int, str]]) -> dict[str, NDArray[Any]]:
    """Arrays without values, by length and kind. As one piece of memory they come from pages that the process has
    already; new ones would cost a quarter of the time of `pack`."""
    sizes = {name: count * np.dtype(kind).itemsize for name, (count, kind) in kinds.items()}
    places = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes.values())]).tolist()
    room = np.empty(places[-1] + 64, np.uint8)
    skip = -room.ctypes.data % 64
    return {
        name: room[skip + at : skip + at + sizes[name]].view(kind)
        for at, (name, (_, kind)) in zip(places, kinds.items(), strict=False)
    }


def _trimmed(made: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    nodes = int(made["node_offsets"][-1])
    links = int(made["link_offsets"][nodes])
    kept = {"node_offsets": made["node_offsets"], "output_slot": made["output_slot"]}
    kept |= {name: made[name][:nodes] for name in (*_NODES, "node_mark", "node_gene")}
    return kept | {"link_offsets": made["link_offsets"][: nodes + 1]} | {name: made[name][:links] for name in _LINKS}


def _in_line(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if not name.endswith("offsets")}
    for name in ("node_offsets", "link_offsets"):
        sizes = np.concatenate([np.diff(part[name]) for part in parts])
        whole[name] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return whole


def _broken(population: Population, at: int) -> DataError:
    cycle = " or a cycle, though it is feed-forward" if population.feed_forward else ""
    return DataError(f"genome {at} has a link from or to a node it lacks{cycle}: repair it, or make it anew")


@dataclass(frozen=True, eq=False)
class _Graph:
    """Chosen genomes as one graph: nodes and enabled links by their places in the population; ends by place in `nodes`,
    the source -1 where it is an input."""

    nodes: Index
    network: Index  # of each node
    links: Index
    source: Index
    target: Index
    outputs: Index  # (chosen * outputs,)


def _graph(p: Population, chosen: Index) -> _Graph:
    nodes, node_offsets = _ranges(p.node_offsets, chosen)
    links, link_offsets = _ranges(p.link_offsets, chosen)
    owner = np.repeat(np.arange(len(chosen)), np.diff(link_offsets))
    live = p.enabled[links] != 0
    links, owner = links[live], owner[live]
    network = np.repeat(np.arange(len(chosen)), np.diff(node_offsets))
    span = 1 + int(max(marks.max(initial=0) for marks in (p.node_mark, p.source, p.target)))
    names = network * span + p.node_mark[nodes]

    def located(marks: NDArray[np.int32], inputs: int) -> Index:
        inner = marks >= inputs
        key = (owner * span + marks)[inner]
        at = np.searchsorted(names, key)
        wrong = np.append(names, -1)[at] != key
        if wrong.any():
            raise _broken(p, int(chosen[owner[inner][wrong.argmax()]]))
        place = np.full(len(marks), -1)
        place[inner] = at
        return place

    outputs = np.repeat(node_offsets[:-1], p.outputs) + np.tile(np.arange(p.outputs), len(chosen))
    return _Graph(nodes, network, links, located(p.source[links], p.inputs), located(p.target[links], 0), outputs)


def _needed(graph: _Graph) -> NDArray[np.bool_]:
    """Which nodes have a way to an output, (nodes,)."""
    needed = np.zeros(len(graph.nodes), bool)
    needed[graph.outputs] = True
    fresh, inner = needed, graph.source >= 0
    while fresh.any():
        reached = np.zeros_like(needed)
        reached[graph.source[inner & fresh[graph.target]]] = True
        fresh = reached & ~needed
        needed = needed | fresh
    return needed


def _pack_numpy(population: Population, chosen: Index) -> Programs:
    """The same programs without a compiler; many genomes at once, one array operation per level."""
    p, graph = population, _graph(population, chosen)
    nodes, network, needed = graph.nodes, graph.network, _needed(graph)
    live = needed[graph.target]
    links, source, target = graph.links[live], graph.source[live], graph.target[live]
    level, idle = np.zeros_like(nodes), np.bincount(target, minlength=len(nodes)) == 0
    if p.feed_forward:
        level, idle = _levels(p, chosen, network, source[source >= 0], target[source >= 0]), np.zeros_like(idle)
    activation = np.where(idle, IDENTITY, p.activation[nodes])
    order = np.lexsort((activation, level, network))
    order = order[needed[order]]
    made_offsets = np.searchsorted(network[order], np.arange(len(chosen) + 1)).astype(np.int64)
    slot = np.zeros(len(nodes), np.int64)
    slot[order] = p.inputs + np.arange(len(order)) - made_offsets[network[order]]
    rank = np.zeros(len(nodes), np.int64)
    rank[order] = np.arange(len(order))
    by_target = np.argsort(rank[target], kind="stable")
    links, source, target = links[by_target], source[by_target], target[by_target]
    constant, gene = idle[order], nodes[order]
    return Programs(
        len(chosen),
        p.inputs,
        p.outputs,
        p.feed_forward,
        node_offsets=made_offsets,
        activation=activation[order].astype(np.uint8),
        aggregation=np.where(constant, SUM, p.aggregation[gene]).astype(np.uint8),
        bias=np.where(constant, 0, p.bias[gene]).astype(np.float32),
        response=np.where(constant, 0, p.response[gene]).astype(np.float32),
        level=level[order].astype(np.int32),
        link_offsets=np.concatenate([[0], np.cumsum(np.bincount(rank[target], minlength=len(order)))]).astype(np.int64),
        link_slot=np.where(source >= 0, slot[source], p.source[links]).astype(np.int32),
        link_weight=p.weight[links].astype(np.float32),
        output_slot=slot[graph.outputs].astype(np.int32),
        node_mark=p.node_mark[gene],
        link_gene=links,
        node_gene=np.where(constant, -1, gene),
    )


def _levels(population: Population, chosen: Index, network: Index, source: Index, target: Index) -> Index:
    """Longest ways from the inputs; a level that rises for longer than there are nodes tells of a cycle."""
    level = np.zeros(len(network), np.int64)
    for _ in range(int(np.bincount(network).max(initial=0)) + 1):
        low = level[target] <= level[source]
        if not low.any():
            return level
        np.maximum.at(level, target[low], level[source[low]] + 1)
    raise _broken(population, int(chosen[network[target[low.argmax()]]]))


# ----------------------------------------------------------------------------------------------------------- evaluate


def activate(
    programs: Programs,
    x: ArrayLike,
    threads: int = 1,
    kernel: Kernel = "auto",
    activations: int = 1,
    device: str = "cpu",
) -> Floats:
    """Outputs in float32: x (batch, inputs) for all networks or (n, batch, inputs) -> (n, batch, outputs).

    Recurrent networks start from 0 and see the same input for `activations` steps; the last outputs count. The result
    may be a transposed view. `device` is torch's."""
    values = _inputs(programs, x, 2)
    chosen = chosen_kernel(kernel)
    hold = 1 if programs.feed_forward else activations
    if chosen == "c":
        return _tiled(programs, values[..., None, :, :], threads, hold, every=False)[:, 0]
    if chosen == "numpy":
        return reference(programs, values, activations).astype(np.float32)
    module, more = _module(chosen, threads, device)
    if programs.feed_forward:
        made = module.activate(programs, values, **more)
    else:
        made = module.sequence(programs, np.repeat(values[..., None, :, :], hold, axis=-3), **more)[:, -1]
    return np.asarray(made, dtype=np.float32)


def sequence(
    programs: Programs, x: ArrayLike, threads: int = 1, kernel: Kernel = "auto", device: str = "cpu"
) -> Floats:
    """Outputs at every step, float32, recurrent state starting at 0: x (steps, batch, inputs) for all networks or
    (n, steps, batch, inputs) -> (n, steps, batch, outputs), maybe a transposed view. Feed-forward networks have no
    state."""
    values = _inputs(programs, x, 3)
    chosen = chosen_kernel(kernel)
    if programs.feed_forward:
        steps, batch = values.shape[-3:-1]
        flat = values.reshape(*values.shape[:-3], steps * batch, programs.inputs)
        return activate(programs, flat, threads, chosen, 1, device).reshape(programs.n, steps, batch, programs.outputs)
    if chosen == "c":
        return _tiled(programs, values, threads, 1, every=True)
    if chosen == "numpy":
        return reference_sequence(programs, values).astype(np.float32)
    module, more = _module(chosen, threads, device)
    return np.asarray(module.sequence(programs, values, **more), dtype=np.float32)


@cache
def chosen_kernel(kernel: Kernel = "auto") -> Literal["c", "numba", "torch", "numpy"]:
    """What `auto` means here: compiled C, else numba, else torch. RecipeError where what is asked for is not there."""
    if kernel == "c" and _kernels("tiles") is None:
        raise RecipeError("kernel 'c' needs a C compiler and none was found: install gcc or clang, or choose 'auto'")
    if kernel == "numba" and importlib.util.find_spec("numba") is None:
        raise RecipeError("kernel 'numba' needs numba, which is not installed: pip install numba, or choose 'auto'")
    if kernel not in ("auto", "c", "numba", "torch", "numpy"):
        raise RecipeError(f"kernel {kernel!r} is not known; known: auto, c, numba, torch, numpy")
    if kernel != "auto":
        return kernel
    if _kernels("tiles") is not None:
        return "c"
    return "numba" if importlib.util.find_spec("numba") else "torch"


def _module(kernel: str, threads: int, device: str) -> tuple[ModuleType, dict[str, Any]]:
    module = importlib.import_module(f"evonas.phenotype.population_{kernel}")
    return module, {"device": device} if kernel == "torch" else {"threads": threads}


def _inputs(programs: Programs, x: ArrayLike, dimensions: int) -> Floats:
    values = np.ascontiguousarray(x, dtype=np.float32)
    own = values.ndim == dimensions + 1
    if (
        not (own or values.ndim == dimensions)
        or values.shape[-1] != programs.inputs
        or (own and len(values) != programs.n)
    ):
        shape = ("batch, " if dimensions == 2 else "steps, batch, ") + f"{programs.inputs}"
        raise DataError(
            f"inputs have shape {values.shape}; {programs.n} networks of {programs.inputs} inputs take ({shape}) or "
            f"({programs.n}, {shape})"
        )
    return values


def _tile(programs: Programs, batch: int) -> int:
    """Inputs that go through a network together: as many as vectors like, as few as the batch and the cache allow."""
    room = L1_FLOATS * (1 if programs.feed_forward else 2) // max(1, programs.slots)
    return next((tile for tile in (64, 32) if batch > tile // 2 + tile // 8 and tile <= room), 16)


def _tiled(programs: Programs, x: Floats, threads: int, hold: int, every: bool, state: Floats | None = None) -> Floats:
    """x (steps, batch, inputs) or (n, steps, batch, inputs) -> (n, steps or 1, batch, outputs) by the C kernel."""
    library = _kernels("tiles")
    assert library is not None
    steps, batch, _ = x.shape[-3:]
    tile = _tile(programs, batch)
    shared = x.ndim == 3
    if shared:
        turned = np.empty((steps, -(-batch // tile), programs.inputs, tile), np.float32)
        library.turn(x.ctypes.data, steps, batch, programs.inputs, tile, turned.ctypes.data)
        x = turned
    out = np.empty((programs.n, steps if every else 1, programs.outputs, batch), np.float32)
    held = (x, shared, steps, batch, hold, every, 0 if state is None else state, out)
    work = _addresses(dict(zip(_TILES, held, strict=True)), _TILES)
    grain = max(1, GRAIN * 64 // max(1, steps * batch * hold))
    _over(library.tiles, programs.n, threads, grain, programs.address, work.ctypes.data, tile)
    return out.swapaxes(2, 3)


def _over(function: Callable[..., int], count: int, threads: int, grain: int, *arguments: int) -> None:
    def work(first: int, last: int) -> None:
        if function(*arguments, first, last):
            raise MemoryError("no memory for the values of networks")

    native.split(work, count, threads)


# ----------------------------------------------------------------------------------------------------------- stepping


class Stepper:
    """Networks in a loop with a world: one input per row and call, recurrent state kept between calls.

    Row i * copies + c is copy c (an episode, say) of network i; there are n * copies rows."""

    def __init__(
        self,
        programs: Programs,
        copies: int = 1,
        threads: int = 1,
        kernel: Kernel = "auto",
        activations: int = 1,
        device: str = "cpu",
    ) -> None:
        self.programs, self.copies, self.rows = programs, copies, programs.n * copies
        chosen = chosen_kernel(kernel)
        hold = 1 if programs.feed_forward else activations
        self._way: Any
        if chosen == "c":
            sliced = _Slices.of(programs, copies, threads, hold) if copies < TILED_COPIES else None
            self._way = sliced or _Tiles(programs, copies, threads, hold)
        elif chosen == "numpy":
            self._way = _Slow(programs, copies, hold)
        else:
            module, more = _module(chosen, threads, device)
            self._way = module.Stepper(programs, copies=copies, activations=hold, **more)

    def step(self, x: ArrayLike) -> Floats:
        """x (rows, inputs) -> (rows, outputs), float32; the next call may overwrite the result."""
        values = np.ascontiguousarray(x, dtype=np.float32)
        if values.shape != (self.rows, self.programs.inputs):
            raise DataError(f"inputs have shape {values.shape}, not ({self.rows}, {self.programs.inputs})")
        made: Floats = self._way.step(values)
        return made

    def reset(self, which: ArrayLike | None = None) -> None:
        """Sets the recurrent state to 0, of all rows or of those named (numbers or a mask)."""
        if not self.programs.feed_forward:
            rows = np.arange(self.rows) if which is None else np.asarray(which)
            self._way.reset(np.flatnonzero(rows) if rows.dtype == bool else rows)


TILED_COPIES = 4
"""From this many copies on, a tile of one network's copies is faster than gathering from many networks."""


class _Tiles:
    def __init__(self, programs: Programs, copies: int, threads: int, hold: int) -> None:
        self._programs, self._copies, self._threads, self._hold = programs, copies, threads, hold
        self._width = _tile(programs, copies)
        shape = (programs.n, -(-copies // self._width), programs.slots, self._width)
        self._state = None if programs.feed_forward else np.zeros(shape, np.float32)

    def step(self, x: Floats) -> Floats:
        p = self._programs
        own = x.reshape(p.n, 1, self._copies, p.inputs)
        made = _tiled(p, own, self._threads, self._hold, every=False, state=self._state)
        return made.reshape(p.n * self._copies, p.outputs)

    def reset(self, rows: Index) -> None:
        network, copy = np.divmod(rows, self._copies)
        assert self._state is not None
        self._state[network, copy // self._width, :, copy % self._width] = 0


class _Slow:
    def __init__(self, programs: Programs, copies: int, hold: int) -> None:
        self._networks = [_network(programs, i) for i in range(programs.n)]
        self._copies, self._hold = copies, hold
        self._values: list[dict[int, Reals]] = [{} for _ in self._networks]

    def step(self, x: Floats) -> Floats:
        own = x.reshape(len(self._networks), self._copies, -1).astype(np.float64)
        made = [
            net.step(one, values, self._hold)
            for net, one, values in zip(self._networks, own, self._values, strict=True)
        ]
        return np.concatenate(made).astype(np.float32)

    def reset(self, rows: Index) -> None:
        for row in rows:
            network, copy = divmod(int(row), self._copies)
            for value in self._values[network].values():
                value[copy] = 0


class _Slices:
    """One input per row: nodes of equal activation from many networks side by side; see kernels/slices.c."""

    @staticmethod
    def of(programs: Programs, copies: int, threads: int, hold: int) -> _Slices | None:
        """None where one chunk would have more values than 16 bits can number, or where the kernels are not built."""
        library = _kernels("slices")
        made = _Slices(library, programs, copies, threads, hold) if library else None
        return made if made and made._fits else None

    def __init__(self, library: ctypes.CDLL, programs: Programs, copies: int, threads: int, hold: int) -> None:
        self._programs, self._threads, self._hold, self._which = programs, threads, hold, 0
        rows, sizes = programs.n * copies, np.repeat(np.diff(programs.node_offsets), copies)
        nodes = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        chunk_row = _chunks(sizes + programs.inputs)
        chunks, total = len(chunk_row) - 1, int(nodes[-1])
        self._row_node = nodes
        held: dict[str, Any] = dict.fromkeys(_SLICES, 0)
        held |= {"copies": copies, "chunk_row": chunk_row, "chunk_node": nodes[chunk_row]}
        held |= {
            "order": np.empty(total, np.int32),
            "size": np.zeros(total, np.uint8),
            "width": np.zeros(total, np.int32),
        }
        counts = np.zeros(chunks, np.int64)
        table = _addresses(held, _SLICES)
        _over(library.arrange, chunks, threads, 16, programs.address, table.ctypes.data, counts.ctypes.data)

        used = held["size"] > 0
        held["size"], held["width"] = held["size"][used], held["width"][used]
        slices = int(counts.sum())
        values = -(-np.diff(chunk_row) * programs.inputs // 16) * 16 + 16 * counts
        self._fits = bool(values.max(initial=0) < 1 << 16)
        self._room = int(values.max(initial=0))
        if not self._fits:
            return
        held["chunk_slice"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        held["chunk_value"] = np.concatenate([[0], np.cumsum(values)]).astype(np.int64)
        held["link"] = np.concatenate([[0], np.cumsum(held["width"])]).astype(np.int64)
        links = int(held["link"][-1]) * 16
        held |= {name: np.zeros(slices, np.uint8) for name in ("activation", "aggregation")}
        held |= {name: _aligned(slices * 16) for name in ("bias", "response")}
        held |= {
            "degree": np.zeros(slices * 16, np.int32),
            "index": np.zeros(links, np.uint16),
            "weight": _aligned(links),
        }
        held |= {"output": np.empty(rows * programs.outputs, np.int32), "position": np.empty(total, np.int32)}
        held["state"] = _aligned(0 if programs.feed_forward else 2 * int(values.sum()))
        self._held, self._table = held, _addresses(held, _SLICES)
        row_of, base_of, node_of = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int64)
        scratch = (row_of.ctypes.data, base_of.ctypes.data, node_of.ctypes.data)
        native.split(
            lambda first, last: library.fill(programs.address, self._address, *scratch, first, last), chunks, threads, 1
        )
        self._out = np.empty((rows, programs.outputs), np.float32)
        self._made = int(self._out.ctypes.data)
        self._call = library.slices
        self._chunks = chunks

    @cached_property
    def _address(self) -> int:
        return int(self._table.ctypes.data)

    @cached_property
    def _program(self) -> int:
        return self._programs.address

    def step(self, x: Floats) -> Floats:
        fixed = (self._program, self._address, x.ctypes.data, self._made, self._hold, self._which, self._room)
        if self._threads == 1:
            failed = self._call(*fixed, 0, self._chunks)
            if failed:
                raise MemoryError("no memory for the values of networks")
        else:
            native.split(lambda first, last: self._call(*fixed, first, last), self._chunks, self._threads, 1)
        self._which ^= self._hold & 1
        return self._out

    def reset(self, rows: Index) -> None:
        state, held = self._held["state"], self._held
        if len(rows) == self._programs.n * self._held["copies"]:
            state[:] = 0
            return
        nodes, _ = _ranges(self._row_node, rows)
        chunk = np.searchsorted(held["chunk_node"], nodes, side="right") - 1
        size = np.diff(held["chunk_value"])[chunk]
        at = 2 * held["chunk_value"][chunk] + held["position"][nodes]
        state[at] = 0
        state[at + size] = 0


def _aligned(count: int) -> Floats:
    """Zeros that start at a vector's boundary."""
    room = np.zeros(count + 16, np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + count]


def _chunks(sizes: Index) -> Index:
    """Where chunks of rows begin, by the numbers of their values."""
    ends = np.cumsum(sizes)
    chunks = max(1, round(float(ends[-1]) / L1_FLOATS)) if len(ends) else 1
    cuts = np.searchsorted(ends, np.arange(1, chunks) * (ends[-1] / chunks)) if len(ends) else []
    return np.unique(np.concatenate([[0], cuts, [len(sizes)]])).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------- reference


def reference(of: Programs | Population, x: ArrayLike, activations: int = 1) -> Reals:
    """What `activate` computes, in float64 by the definition, slowly: the oracle of every kernel. A population is read
    from its genes, without `pack`."""
    values = np.asarray(x, dtype=np.float64)
    return np.stack([net.sequence(own[None], activations)[-1] for net, own in _paired(of, values, 2)])


def reference_sequence(of: Programs | Population, x: ArrayLike) -> Reals:
    """What `sequence` computes, in float64 by the definition, slowly."""
    values = np.asarray(x, dtype=np.float64)
    return np.stack([net.sequence(own, 1) for net, own in _paired(of, values, 3)])


def _paired(of: Programs | Population, x: Reals, dimensions: int) -> Iterator[tuple[_Network, Reals]]:
    networks = [_network(of, i) for i in range(len(of))]
    return zip(networks, x if x.ndim > dimensions else [x] * len(of), strict=True)


@dataclass(frozen=True)
class _Node:
    name: int
    bias: float
    response: float
    activation: str
    aggregation: str
    links: tuple[tuple[int, float], ...]  # source's name, weight


@dataclass(frozen=True)
class _Network:
    """Nodes by name, in an order they can be computed in; inputs have the names 0 .. inputs - 1."""

    inputs: int
    outputs: tuple[int, ...]
    feed_forward: bool
    nodes: tuple[_Node, ...]

    def sequence(self, x: Reals, activations: int) -> Reals:
        """x (steps, batch, inputs) -> (steps, batch, outputs)."""
        values: dict[int, Reals] = {}
        return np.stack([self.step(one, values, activations) for one in x])

    def step(self, x: Reals, values: dict[int, Reals], activations: int) -> Reals:
        """x (batch, inputs) -> (batch, outputs); `values` by name are the state, changed in place."""
        zero = np.zeros(len(x))
        with np.errstate(all="ignore"):  # what overflows is infinite in the kernels too
            self._pass(x, values, activations, zero)
        return np.stack([values.get(name, zero) for name in self.outputs], axis=1)

    def _pass(self, x: Reals, values: dict[int, Reals], activations: int, zero: Reals) -> None:
        for _ in range(activations):
            values |= enumerate(x.T)
            seen = values if self.feed_forward else dict(values)
            for node in self.nodes:
                terms = np.array([weight * seen.get(source, zero) for source, weight in node.links])
                total = AGGREGATE[node.aggregation](terms.reshape(len(node.links), len(x)))
                values[node.name] = ACTIVATE[node.activation](node.bias + node.response * total)


def _network(of: Programs | Population, at: int) -> _Network:
    return _packed_network(of, at) if isinstance(of, Programs) else _grown_network(of, at)


def _packed_network(p: Programs, at: int) -> _Network:
    nodes = [
        _Node(
            p.inputs + j,
            float(p.bias[k]),
            float(p.response[k]),
            ACTIVATIONS[p.activation[k]],
            AGGREGATIONS[p.aggregation[k]],
            tuple((int(p.link_slot[i]), float(p.link_weight[i])) for i in range(*p.link_offsets[k : k + 2])),
        )
        for j, k in enumerate(range(*p.node_offsets[at : at + 2]))
    ]
    outputs = p.output_slot[at * p.outputs : (at + 1) * p.outputs]
    return _Network(p.inputs, tuple(map(int, outputs)), p.feed_forward, tuple(nodes))


def _grown_network(p: Population, at: int) -> _Network:
    links: dict[int, list[tuple[int, float]]] = {}
    for i in range(*p.link_offsets[at : at + 2]):
        if p.enabled[i]:
            links.setdefault(int(p.target[i]), []).append((int(p.source[i]), float(p.weight[i])))
    place = {int(p.node_mark[k]): k for k in range(*p.node_offsets[at : at + 2])}
    made: dict[int, _Node | None] = {}

    def grow(name: int) -> None:
        if name in made or name < p.inputs:
            return
        made[name] = None
        for source, _ in links.get(name, ()):
            grow(source)
        k = place[name]
        kinds = ACTIVATIONS[p.activation[k]], AGGREGATIONS[p.aggregation[k]]
        made[name] = made.pop(name) or _Node(
            name, float(p.bias[k]), float(p.response[k]), *kinds, tuple(links.get(name, ()))
        )

    outputs = tuple(range(p.inputs, p.inputs + p.outputs))
    for name in outputs:
        grow(name)
    # a recurrent node that no link enters stays 0 (neat-python)
    nodes = [node for node in made.values() if node and (node.links or p.feed_forward)]
    return _Network(p.inputs, outputs, p.feed_forward, tuple(nodes))


def _clamped(z: Reals, limit: float) -> Reals:
    return np.clip(z, -limit, limit)


ACTIVATE: Mapping[str, Callable[[Reals], Reals]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-_clamped(5 * z, 60))),
    "tanh": lambda z: np.tanh(_clamped(2.5 * z, 60)),
    "sin": lambda z: np.sin(_clamped(5 * z, 60)),
    "gauss": lambda z: np.exp(-5 * _clamped(z, 3.4) ** 2),
    "relu": lambda z: np.maximum(z, 0),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "lelu": lambda z: np.where(z > 0, z, 0.005 * z),
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: 0.2 * np.log1p(np.exp(_clamped(5 * z, 60))),
    "identity": lambda z: z,
    "clamped": lambda z: _clamped(z, 1),
    "inv": lambda z: np.where(z == 0, 0, 1 / np.where(z == 0, 1, z)),
    "log": lambda z: np.log(np.maximum(z, 1e-7)),
    "exp": lambda z: np.exp(_clamped(z, 60)),
    "abs": np.abs,
    "hat": lambda z: np.maximum(0, 1 - np.abs(z)),
    "square": lambda z: z**2,
    "cube": lambda z: z**3,
}
"""neat-python's activations, with its scaling."""

AGGREGATE: Mapping[str, Callable[[Reals], Reals]] = {
    "sum": lambda terms: terms.sum(0),
    "product": lambda terms: terms.prod(0),
    "min": lambda terms: terms.min(0) if len(terms) else terms.sum(0),
    "max": lambda terms: terms.max(0) if len(terms) else terms.sum(0),
    "maxabs": lambda terms: (
        np.take_along_axis(terms, np.abs(terms).argmax(0)[None], 0)[0] if len(terms) else terms.sum(0)
    ),
    "median": lambda terms: np.median(terms, axis=0) if len(terms) else terms.sum(0),
    "mean": lambda terms: terms.mean(0) if len(terms) else terms.sum(0),
}
"""neat-python's aggregations over terms (links, batch) -> (batch,); of no links 0, but the product 1."""
