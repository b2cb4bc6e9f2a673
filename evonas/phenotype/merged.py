"""All networks of packed programs as one big graph, its nodes ordered across networks: what computes few inputs per
network at vector speed, and many networks by few large tensor operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from evonas.phenotype.population import Programs

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Merged:
    """One graph of the nodes of r networks, with one value per row: first the inputs (r x inputs, or `inputs` that all
    share), then the nodes by (chunk, level, activation, aggregation)."""

    base: int  # rows of inputs; the node at place k has row base + k
    rows: int
    order: Index  # (nodes,): the programs' node at each place
    owner: Index  # (nodes,): its network
    links: Index  # (links,): the programs' link, by place of the node it goes to
    start: Index  # (nodes + 1,): where the links into each place begin
    source: Index  # (links,): rows
    outputs: Index  # (r, outputs): rows
    runs: Index  # (runs, 5): stretches of alike nodes: level, activation, aggregation, first place, last place
    chunks: Index  # (chunks + 1,): where the runs of each chunk begin

    def nodes_of(self, networks: Index) -> Index:
        """Rows of the nodes of these networks."""
        wanted = np.zeros(len(self.outputs), dtype=bool)
        wanted[networks] = True
        return self.base + np.flatnonzero(wanted[self.owner])


def merge(programs: Programs, copies: int = 0, chunk: int = 0) -> Merged:
    """Programs as one graph, `copies` of each network side by side; 0 = once, and all take the same inputs. `chunk`
    networks at a time stand together, so that their values stay in cache; 0 = no matter how many."""
    p, r = programs, programs.n * max(1, copies)
    network = np.repeat(np.arange(p.n), max(1, copies))
    sizes = np.diff(p.node_offsets)[network]
    first = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(r), sizes)
    node = np.arange(first[-1]) - first[owner] + p.node_offsets[network[owner]]

    level = p.level[node].astype(np.int64) * p.feed_forward
    part = owner // chunk if chunk else owner * 0
    kind = p.activation[node].astype(np.int64) * 16 + p.aggregation[node]
    key = (part * (int(level.max(initial=0)) + 1) + level) * 1024 + kind
    turn = np.argsort(key, kind="stable")
    key, order, owner = key[turn], node[turn], owner[turn]
    base = p.inputs * (r if copies else 1)
    row = np.empty(len(turn), dtype=np.int64)
    row[turn] = np.arange(len(turn)) + base

    count = np.diff(p.link_offsets)[order]
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    links = np.arange(start[-1]) + np.repeat(p.link_offsets[:-1][order] - start[:-1], count)

    def rows(slot: NDArray[np.int32], own: Index) -> Index:
        inner = row[np.where(slot < p.inputs, 0, first[own] + slot - p.inputs)]
        outer = slot + (own * p.inputs if copies else 0)
        return np.where(slot < p.inputs, outer, inner).astype(np.int64)

    outputs = rows(p.output_slot.reshape(p.n, -1)[network].reshape(-1), np.repeat(np.arange(r), p.outputs))
    edge = np.flatnonzero(np.diff(key, prepend=-1))
    begin = order[edge]
    ends = np.append(edge[1:], len(order))[: len(edge)]
    runs = np.stack([level[turn][edge], p.activation[begin], p.aggregation[begin], edge, ends], 1).astype(np.int64)
    chunks = np.searchsorted(part[turn][edge], np.arange(-(-r // chunk) + 1 if chunk else 2))
    return Merged(
        base=base, rows=base + len(order), order=order, owner=owner, links=links, start=start,
        source=rows(p.link_slot[links], np.repeat(owner, count)), outputs=outputs.reshape(r, p.outputs),
        runs=runs, chunks=chunks.astype(np.int64),
    )  # fmt: skip
