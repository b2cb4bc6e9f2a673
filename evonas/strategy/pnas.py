"""Progressive architecture search: genomes grow place by place, and a predictor says which are worth estimating.

Liu et al. 2018. What is not decided yet stands neutral, so every partial genome is a network. Where the paper ends, the
predictor goes on: it grows a beam by itself, and the best whole genomes are estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas.core import State, generator, stream
from evonas.strategy import PnasSettings
from evonas.strategy.lessons import Lesson, Merit, Record, Taught, Tokens

Values = NDArray[np.float64]

MOST = 20_000
"""Genomes that one growth may propose: of more ways to grow a random part is looked at."""


class Known:
    """Everyone estimated so far: the merit of each genome as tokens, of one estimated twice the last."""

    def __init__(self) -> None:
        self.merits: dict[Tokens, Merit] = {}

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        self.merits.update(lessons)

    def best(self, tokens: Iterable[Tokens], count: int) -> list[Tokens]:
        """The best of some, of equals the earlier ones."""
        return sorted(tokens, key=self.merits.__getitem__)[:count]


class Ensemble:
    """Ridge regressions of rewards on single choices and pairs of choices, each without its part of the data.

    In their dual form: two genomes that agree at m places agree in m choices and m (m - 1) / 2 pairs."""

    def __init__(self, tokens: NDArray[np.int64], rewards: Values, members: int, ridge: float, seed: int) -> None:
        self._tokens, self._mean = tokens, float(rewards.mean())
        kernel = agreement(tokens, tokens)
        part = generator(seed, "parts", len(tokens)).permutation(len(tokens)) % members
        self._duals = np.zeros((len(tokens), members))
        for member in range(members):
            rows = np.flatnonzero(part != member) if len(tokens) > members else np.arange(len(tokens))
            inner = kernel[np.ix_(rows, rows)] + ridge * np.eye(len(rows))
            self._duals[rows, member] = np.linalg.solve(inner, rewards[rows] - self._mean)

    def predict(self, tokens: NDArray[np.int64]) -> Values:
        """The members' mean reward, (n, places) -> (n,)."""
        found: Values = self._mean + agreement(tokens, self._tokens) @ self._duals.mean(axis=1)
        return found


def agreement(a: NDArray[np.int64], b: NDArray[np.int64]) -> Values:
    """How many choices and pairs of choices two genomes share, scaled so that equal ones have 1: (n, places) and (m,
    places) -> (n, m)."""
    shared = np.zeros((len(a), len(b)))
    for one, other in zip(a.T, b.T, strict=True):
        shared += one[:, None] == other
    places = a.shape[1]
    found: Values = shared * (shared + 1) / (places * (places + 1))
    return found


@dataclass(frozen=True)
class Pnas(Taught[Known]):
    """The best proposals first; where there are too few, random genomes fill the generation up."""

    settings: PnasSettings

    def untaught(self) -> Known:
        """Nobody known yet."""
        return Known()

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        space: Any = self.problem.encoding
        return tuple(map(len, space.choices))

    @cached_property
    def neutral(self) -> Tokens:
        """What stands at every place until it is decided."""
        space: Any = self.problem.encoding
        wanted = [[row.index(name) for name in self.settings.neutral if name in row] for row in space.choices]
        return tuple([found[0] if found else 0 for found in wanted])

    def source(self, model: Known, record: Record, state: State) -> Callable[[Random], Tokens]:
        """One proposal after the other, then genomes at random."""
        proposals = iter(self._proposals(state, model, record))
        return lambda rng: next(proposals, None) or tuple([rng.randrange(size) for size in self._sizes])

    def _proposals(self, state: State, known: Known, record: Record) -> list[Tokens]:
        """Genomes not seen yet, the best first: partial ones while they grow, then whole ones."""
        rng = stream(self.problem.seed, "growth", state.generation)
        decided = min(state.generation * self.settings.step, len(self._sizes))
        if not known.merits:
            return self._new(self._grown([self.neutral], 0, rng), record)
        predictor = self._predictor(known, record)
        if decided < len(self._sizes):
            partial = [tokens for tokens in known.merits if tokens[decided:] == self.neutral[decided:]]
            beam = known.best(partial, self.settings.population) or [self.neutral]
            return self._new(ranked(predictor, self._grown(beam, decided, rng)), record)
        return self._new(self._whole(predictor, rng), record)

    def _whole(self, predictor: Ensemble, rng: Random) -> list[Tokens]:
        """Whole genomes by their predicted rank, grown without an estimate on the way."""
        beam = [self.neutral]
        for decided in range(0, len(self._sizes), self.settings.step):
            beam = ranked(predictor, self._grown(beam, decided, rng))[: self.settings.beam]
        return beam

    def _predictor(self, known: Known, record: Record) -> Ensemble:
        rewards = np.array([record.reward(merit) for merit in known.merits.values()])
        given = self.settings
        return Ensemble(np.array(list(known.merits)), rewards, given.members, given.ridge, self.problem.seed)

    def _grown(self, beam: Sequence[Tokens], decided: int, rng: Random) -> list[Tokens]:
        """Every genome that decides the next places of one of the beam."""
        open_sizes = self._sizes[decided : decided + self.settings.step]
        following = decided + len(open_sizes)
        ways = list(islice(product(*map(range, open_sizes)), MOST))
        grown = [(*one[:decided], *way, *one[following:]) for one in beam for way in ways]
        rng.shuffle(grown)
        return grown[:MOST]

    def _new(self, proposals: Sequence[Tokens], record: Record) -> list[Tokens]:
        return [tokens for tokens in proposals if tokens not in record.seen]


def ranked(predictor: Ensemble, proposals: Sequence[Tokens]) -> list[Tokens]:
    """Proposals from best to worst predicted, of equals in their order."""
    order = np.argsort(-predictor.predict(np.array(proposals)), kind="stable")
    return [proposals[at] for at in order.tolist()]
