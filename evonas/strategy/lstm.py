"""The recurrent controller: an LSTM that makes one choice after the other, each with the last ones in mind.

Zoph and Le 2017, 3.1 and figure 2: the previous choice is embedded and read; each place has a softmax of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evonas.core import generator

Values = NDArray[np.float64]

SPREAD = 0.1
"""Weights begin uniformly within this of 0. Zoph et al. 2018, A.2."""

KIND = torch.float32
"""In float64 torch has no LSTM in one piece, and a step takes two and a half times as long."""

CELL = ("reads", "recalls", "read_bias", "recall_bias")
"""The weights of the LSTM, in the order that torch takes them."""

NEVER = -1e9
"""The logit of a choice that a place lacks: its probability is 0, and 0 times its logarithm still a number."""


@contextmanager
def one_thread() -> Iterator[None]:
    """So small a network is quicker with one, and equal to the bit on any machine with these libraries."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Lstm:
    """Fulfils `controller.Policy`: one layer, embeddings and heads for every place, trained by Adam."""

    def __init__(self, choices: Sequence[int], units: int, rate: float, seed: int) -> None:
        self.sizes = tuple(choices)
        places, most = len(choices), max(choices)
        # row 0 of the embeddings is the beginning, then come the choices of the first place, and so on
        self._rows = [*accumulate(choices[:-1], initial=1)]
        shapes = {
            "embeddings": (1 + sum(choices), units), "reads": (4 * units, units), "recalls": (4 * units, units),
            "read_bias": (4 * units,), "recall_bias": (4 * units,),
            "heads": (places, units, most), "bias": (places, most),
        }  # fmt: skip
        rng = generator(seed, "controller")
        begun = {name: rng.uniform(-SPREAD, SPREAD, shape) for name, shape in shapes.items()}
        self.weights = {name: torch.from_numpy(values).to(KIND).requires_grad_() for name, values in begun.items()}
        lacking = np.arange(most) >= np.array(choices)[:, None]
        self._mask = torch.from_numpy(np.where(lacking, NEVER, 0.0)).to(KIND)
        self._start = torch.zeros(1, 1, units, dtype=KIND)
        self._adam = torch.optim.Adam(self.weights.values(), lr=rate, fused=True)
        self._known: dict[tuple[int, ...], tuple[list[float], Tensor, Tensor]] = {}

    def draw(self, rng: Random) -> tuple[int, ...]:
        """One choice per place."""
        tokens: tuple[int, ...] = ()
        with one_thread(), torch.inference_mode():
            for _ in self.sizes:
                shares, _, _ = self._after(tokens)
                tokens = (*tokens, picked(shares, rng))
        return tokens

    def _after(self, tokens: tuple[int, ...]) -> tuple[list[float], Tensor, Tensor]:
        """Probabilities of the next choice and the cell's state after some; known until the weights change, because a
        settled controller draws the same again and again."""
        if tokens not in self._known:
            place, weights = len(tokens), self.weights
            before = self._after(tokens[:-1])[1:] if tokens else (self._start[0], self._start[0])
            row = self._rows[place - 1] + tokens[-1] if tokens else 0
            cell = torch.lstm_cell(weights["embeddings"][row : row + 1], before, *[weights[name] for name in CELL])
            logits = cell[0][0] @ weights["heads"][place] + weights["bias"][place] + self._mask[place]
            self._known[tokens] = (torch.softmax(logits, 0).tolist()[: self.sizes[place]], *cell)
        return self._known[tokens]

    def logs(self, tokens: NDArray[np.int64]) -> Values:
        """Logarithms of the probabilities of choices, (n, places) -> (n, places)."""
        with one_thread(), torch.inference_mode():
            found: Values = self._logs(tokens)[1].double().numpy()
            return found

    def ascend(self, tokens: NDArray[np.int64], weigh: Callable[[Values], Values], entropy: float) -> None:
        """One step of Adam up the sum of `weigh(logs) * logs` and `entropy` times the mean entropy of the n draws."""
        with one_thread():
            self._adam.zero_grad(set_to_none=True)
            whole, chosen = self._logs(tokens)
            gain = (torch.from_numpy(weigh(chosen.detach().double().numpy())) * chosen).sum()
            if entropy:
                gain = gain - entropy / len(tokens) * (whole.exp() * whole).sum()
            (-gain).backward()  # type: ignore[no-untyped-call]
            self._adam.step()
            self._known.clear()

    def _logs(self, tokens: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Logarithms of all probabilities, (n, places, most), and of those of the choices, (n, places)."""
        n = len(tokens)
        made = torch.from_numpy(np.ascontiguousarray(tokens))
        rows = functional.pad(made[:, :-1] + torch.tensor(self._rows[:-1]), (1, 0))
        inputs = functional.embedding(rows, self.weights["embeddings"])
        state = [self._start.expand(-1, n, -1).contiguous()] * 2
        hidden = torch.lstm(inputs, state, [self.weights[name] for name in CELL], True, 1, 0.0, True, False, True)[0]
        logits = torch.einsum("npu,puk->npk", hidden, self.weights["heads"]) + self.weights["bias"] + self._mask
        whole = torch.log_softmax(logits, 2)
        return whole, whole.gather(2, made[..., None])[..., 0]


def picked(shares: Sequence[float], rng: Random) -> int:
    """A place of a row of probabilities that sum to 1, drawn by them."""
    level = rng.random()
    for at, edge in enumerate(accumulate(shares)):
        if level < edge:
            return at
    return len(shares) - 1
