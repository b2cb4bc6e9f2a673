"""Historical markings: the innovation registry. The same structural change in a run gets the same mark.

A change is named by where it happens: an edge by its two ends, a new node by the two ends it was put between (and a
count, since one genome can do so twice). The registry is a value in the run's state, so a resumed run hands out the
marks the uninterrupted one would have. Stanley and Miikkulainen 2002, section 3.2."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

INPUT, OUTPUT = 0, 1
"""The marks of the two genes that every layer graph has."""

Ends = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Marks:
    """The registry as a value: the next free mark, and the marks given to edges and to nodes between two ends."""

    next: int = 2
    edges: Mapping[Ends, int] = field(default_factory=dict)
    nodes: Mapping[Ends, tuple[int, ...]] = field(default_factory=dict)

    def open(self) -> MarkBook:
        """A book to write new marks into; this value stays as it is."""
        return MarkBook(self)

    def living(self, alive: Container[int]) -> Marks:
        """Without the nodes that have died out and the edges at them, so that the registry stays small: a gene comes
        back with all its marks or with none. No number is ever handed out again."""
        edges = {ends: mark for ends, mark in self.edges.items() if ends[0] in alive and ends[1] in alive}
        nodes = {ends: kept for ends, marks in self.nodes.items() if (kept := tuple(m for m in marks if m in alive))}
        return Marks(self.next, edges, nodes)

    def to_json(self) -> Any:
        return {
            "next": self.next,
            "edges": [[*ends, mark] for ends, mark in sorted(self.edges.items())],
            "nodes": [[*ends, *marks] for ends, marks in sorted(self.nodes.items())],
        }

    @staticmethod
    def from_json(data: Any) -> Marks:
        edges = {(source, target): mark for source, target, mark in data["edges"]}
        nodes = {(source, target): tuple(marks) for source, target, *marks in data["nodes"]}
        return Marks(data["next"], edges, nodes)


class MarkBook:
    """An open registry: looks marks up and hands out new ones; `close` gives the new value."""

    def __init__(self, marks: Marks | None = None) -> None:
        marks = marks or Marks()
        self._next = marks.next
        self._edges = dict(marks.edges)
        self._nodes = dict(marks.nodes)

    @property
    def free(self) -> int:
        """The next mark that is free, as are all above it."""
        return self._next

    def reserve(self, marks: int) -> None:
        """Keeps the marks below `marks` for genes that every genome has: none of them is handed out from now on."""
        self._next = max(self._next, marks)

    def edge(self, source: int, target: int) -> int:
        """The mark of the edge between two nodes."""
        ends = (source, target)
        if ends not in self._edges:
            self._edges[ends] = self._take()
        return self._edges[ends]

    def node(self, source: int, target: int, taken: Container[int] = ()) -> int:
        """The mark of a node put between two others; `taken` are the marks of nodes that the genome has already."""
        ends = (source, target)
        known = self._nodes.get(ends, ())
        for mark in known:
            if mark not in taken:
                return mark
        mark = self._take()
        self._nodes[ends] = (*known, mark)
        return mark

    def close(self) -> Marks:
        return Marks(self._next, dict(self._edges), dict(self._nodes))

    def _take(self) -> int:
        mark = self._next
        self._next += 1
        return mark
