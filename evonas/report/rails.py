"""A graph as rails beside lines of text: of networks where tensors go, of families who descends from whom."""

from __future__ import annotations

from collections.abc import Sequence


def drawn(inputs: Sequence[Sequence[int]]) -> list[str]:
    """One line per step: `●` the step in its column, `│` a tensor that waits, `├ ╯ ─` where a step takes its inputs."""
    last = {source: target for target, sources in enumerate(inputs) for source in sources}
    columns: list[int | None] = []
    lines = []
    for i, sources in enumerate(inputs):
        taken = {columns.index(s) for s in sources}
        ending = {c for c in taken if last[columns[c]] == i}  # type: ignore[index]
        here = min(ending, default=columns.index(None) if None in columns else len(columns))
        columns += [None] * (here + 1 - len(columns))
        lines.append(_rail(columns, here, taken, ending))
        for c in ending:
            columns[c] = None
        columns[here] = i if i in last else None
        while columns and columns[-1] is None:
            columns.pop()
    return lines


def _rail(columns: Sequence[int | None], here: int, taken: set[int], ending: set[int]) -> str:
    low, high = min([here, *taken]), max([here, *taken])
    cells = []
    for c, tensor in enumerate(columns):
        if c == here:
            cell = "●"
        elif c in ending:
            cell = "╯" if c > here else "╰"
            cell = cell if c in (low, high) else "┴"
        elif c in taken:
            cell = ("┤" if c > here else "├") if c in (low, high) else "┼"
        elif tensor is not None:
            cell = "│"
        else:
            cell = "─" if low < c < high else " "
        cells.append(cell + ("─" if low <= c < high else " "))
    return "".join(cells).rstrip()
