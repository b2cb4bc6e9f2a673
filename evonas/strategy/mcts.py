"""Monte Carlo tree search over genomes as tokens: UCT. Kocsis and Szepesvari 2006; of networks Negrinho and Gordon
2017 and Wang et al. 2018 (AlphaX)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from evonas.core import State
from evonas.strategy import MctsSettings
from evonas.strategy.lessons import Lesson, Record, Taught, Tokens


class Node:
    """The choices that begin alike: how often they were tried, their rewards' sum, and how many different ones."""

    __slots__ = ("different", "total", "visits")

    def __init__(self) -> None:
        self.visits, self.total, self.different = 0, 0.0, 0


class Tree:
    """A node for every beginning of tokens that was tried."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.nodes: dict[Tokens, Node] = {(): Node()}
        self._leaves = [math.prod(self.sizes[place:]) for place in range(len(self.sizes) + 1)]

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        """Every node on the way counts one visit more and the reward."""
        for tokens, merit in lessons:
            reward, new = record.reward(merit), tokens not in self.nodes
            for place in range(len(tokens) + 1):
                node = self.nodes.setdefault(tokens[:place], Node())
                node.visits += 1
                node.total += reward
                node.different += new

    def left(self, tokens: Tokens) -> int:
        """How many ways on from a beginning were not tried yet."""
        node = self.nodes.get(tokens)
        return self._leaves[len(tokens)] - (node.different if node else 0)


class Descent:
    """Ways down a tree for the genomes of one generation: each counts as a visit of mean reward for those after it, and
    its end as tried, so that they part."""

    def __init__(self, tree: Tree, exploration: float, repeats: bool) -> None:
        self.tree, self.exploration, self.repeats = tree, exploration, repeats
        self.under_way: Counter[Tokens] = Counter()
        self.claimed: Counter[Tokens] = Counter()

    def __call__(self, rng: Random) -> Tokens:
        """By UCT as far as all choices were tried, then one that was not, then at random."""
        tokens: Tokens = ()
        while len(tokens) < len(self.tree.sizes):
            tokens = (*tokens, self._choice(tokens, rng))
        ways = [tokens[:place] for place in range(len(tokens) + 1)]
        if not self._visits(tokens):
            self.claimed.update(ways)
        self.under_way.update(ways)
        return tokens

    def _choice(self, tokens: Tokens, rng: Random) -> int:
        size = self.tree.sizes[len(tokens)]
        ways = [(*tokens, choice) for choice in range(size)]
        if not self.repeats:
            ways = [way for way in ways if self.tree.left(way) > self.claimed[way]] or ways
        untried = [way for way in ways if not self._visits(way)]
        if untried:
            return rng.choice(untried)[-1]
        seldom = 2 * math.log(self._visits(tokens))
        scores = [self._mean(way) + self.exploration * math.sqrt(seldom / self._visits(way)) for way in ways]
        best = max(scores)
        return rng.choice([way for way, score in zip(ways, scores, strict=True) if score == best])[-1]

    def _visits(self, tokens: Tokens) -> int:
        node = self.tree.nodes.get(tokens)
        return self.under_way[tokens] + (node.visits if node else 0)

    def _mean(self, tokens: Tokens) -> float:
        """The mean reward; of what is only under way that of the beginning which has one."""
        node = self.tree.nodes.get(tokens)
        if node is None or not node.visits:
            return self._mean(tokens[:-1]) if tokens else 0.5
        return node.total / node.visits


@dataclass(frozen=True)
class Mcts(Taught[Tree]):
    """Ways down the tree of everything tried."""

    settings: MctsSettings

    def untaught(self) -> Tree:
        """A tree of its root alone."""
        space: Any = self.problem.encoding
        return Tree([len(options) for options in space.choices])

    def source(self, model: Tree, record: Record, state: State) -> Callable[[Random], Tokens]:
        """Ways down the tree that part from each other."""
        return Descent(model, self.settings.exploration, self.settings.repeats)
