"""How much each channel of a layer matters, for pruning: by the norm of its filter, by its activation, by its Shapley
value, or at random for comparison.

The Shapley part is in two halves: values of any game over boolean masks, and the game that a network plays when some of
its channels are absent. An absent channel is one that is cut out: what it would leave behind in a norm or a depthwise
filter further on is absent, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import factorial, prod
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evonas.core import DataError, RecipeError, generator, nearest
from evonas.encoding.plan import Plan
from evonas.phenotype.network import Network

Mask = NDArray[np.bool_]
"""(players,): who takes part."""
Values = NDArray[np.float64]
Game = Callable[[Mask], float]
"""What a coalition is worth; it may keep the mask it is given."""
Criterion = Literal["norm", "activation", "shapley", "random"]

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
MAX_EXACT = 12
"""Players up to whom all coalitions are enumerated: 4,096."""


# ------------------------------------------------------------------------------------------------------------- games


def exact_values(value: Game, players: int) -> Values:
    """Shapley values by enumeration of all 2^players coalitions, (players,); they add up to v(all) - v(none).

    Shapley 1953. Raises RecipeError for no players or more than 12."""
    if not 1 <= players <= MAX_EXACT:
        raise RecipeError(f"{players} players cannot be enumerated: give 1 to {MAX_EXACT}, or sample permutations")
    codes = np.arange(1 << players)
    masks = (codes[:, None] >> np.arange(players) & 1).astype(bool)
    worth = np.array([value(mask) for mask in masks], dtype=np.float64)
    orders = [factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)]
    share, sizes = np.array(orders), masks.sum(1)
    values = np.empty(players)
    for player in range(players):
        without = codes[~masks[:, player]]
        values[player] = share[sizes[without]] @ (worth[without | 1 << player] - worth[without])
    return values


def sampled_values(
    value: Game,
    players: int,
    permutations: int,
    rng: np.random.Generator,
    tolerance: float = 0.0,
    antithetic: bool = False,
) -> Values:
    """Shapley values by walks over random permutations, (players,); unbiased without tolerance.

    A walk begins with all players and lets one after the other go; what is lost with each is its share (Castro et al.
    2009). Once less than `tolerance` separates the rest from nobody, they get 0 (Ghorbani and Zou 2020): the values add
    up to v(all) - v(none) exactly without tolerance, and within it otherwise. From the full network down, because it is
    there that a pruned network lies. With `antithetic` every second walk is the one before backwards. At most
    permutations * (players - 1) + 2 coalitions are evaluated. Raises RecipeError for no players or permutations."""
    if players < 1 or permutations < 1:
        raise RecipeError(f"{players} players in {permutations} permutations give no values: take at least one of each")
    everyone = np.ones(players, dtype=bool)
    ends = value(everyone.copy()), value(~everyone)
    total, order = np.zeros(players), np.arange(players)
    for walk in range(permutations):
        order = order[::-1] if antithetic and walk % 2 else rng.permutation(players)
        total += _walk(value, order, ends, tolerance)
    return total / permutations


def _walk(value: Game, order: NDArray[np.int64], ends: tuple[float, float], tolerance: float) -> Values:
    """What is lost with each player when they leave in this order, (players,)."""
    (before, nobody), shares = ends, np.zeros(len(order))
    present = np.ones(len(order), dtype=bool)
    for player in order[:-1]:
        if abs(before - nobody) < tolerance:
            return shares
        present[player] = False
        after = value(present.copy())
        shares[player], before = before - after, after
    shares[order[-1]] = before - nobody
    return shares


# ------------------------------------------------------------------------------------------------------ absent channels

_KEEPING = frozenset({"max_pool", "avg_pool", "identity", "dropout", "gate", "global_pool"})
"""Operations whose channel c comes from channel c of their input alone."""


class Masked:
    """A network of which some channels can be absent, on fixed rows: what no mask reaches is computed once.

    `names` are steps of one width; channel c of all of them is absent at once, as sums and depthwise layers tie widths.
    Outputs equal those of the network with the channel cut out of the steps and of everything that follows, but that
    the statistics of a group norm count absent channels as zeros. Evaluation mode; the network is as before after every
    call, and must not change between them. Holds some activations of all rows. Raises DataError for wrong names."""

    def __init__(self, network: Network, names: Sequence[str], x: Tensor) -> None:
        self._network, self._steps = network, network.plan.steps
        chosen, self.channels = _chosen(network.plan, names)
        self._masks = _masks(network.plan, chosen, self.channels)
        self._last = {source: i for i, step in enumerate(self._steps) for source in step.inputs}
        self._later = _behind(network.plan, chosen)
        self._kept = self._before(x)

    def __call__(self, present: Mask) -> Tensor:
        """The outputs, (rows, outputs), with only those channels that `present` (channels,) names."""
        flags = np.append(present, True)  # channels that nobody owns have owner -1, the last
        values = dict(self._kept)
        with _evaluating(self._network):
            for i in self._later:
                values[i] = self._masked(i, values, flags)
                self._drop(i, values)
        return values[len(self._steps) - 1]

    def _before(self, x: Tensor) -> dict[int, Tensor]:
        """Values by step that no mask reaches and later steps need, and of the first masked steps unmasked."""
        later = set(self._later)
        first = [i for i in self._later if later.isdisjoint(self._steps[i].inputs)]
        ready = [i for i in range(len(self._steps)) if i not in later or i in first]
        wanted = {source for i in later.difference(first) for source in self._steps[i].inputs}
        values = {0: x}
        with _evaluating(self._network):
            for i in ready:
                if i:
                    values[i] = self._run(i, values)
                self._drop(i, values, keep=wanted)
        return {i: values[i] for i in ready if i in wanted or i in first}

    def _masked(self, i: int, values: dict[int, Tensor], flags: Mask) -> Tensor:
        masks = self._masks.get(i, _NOWHERE)
        inner = None if masks.inner is None else flags[masks.inner]
        output = self._kept[i] if i in self._kept else self._run(i, values, inner)
        return output if masks.outer is None else _cut(output, flags[masks.outer])

    def _run(self, i: int, values: dict[int, Tensor], inner: Mask | None = None) -> Tensor:
        step = self._steps[i]
        module, inputs = self._network.get_submodule(step.name), [values[source] for source in step.inputs]
        if inner is None:
            output: Tensor = module(*inputs)
            return output
        (output,) = inputs
        for name, part in module.named_children():
            output = part(_cut(output, inner) if name == "pointwise" else output)
        return output

    def _drop(self, i: int, values: dict[int, Tensor], keep: Sequence[int] | set[int] = ()) -> None:
        for source in self._steps[i].inputs:
            if self._last[source] == i and source not in keep:
                values.pop(source, None)


def game(network: Network, names: Sequence[str], x: Tensor, y: Tensor) -> Game:
    """The channels of steps as players: what a coalition is worth is how well the network does with all others absent.

    That is the mean probability which it gives to the right class, or minus its mean squared error where targets are
    floats. Accuracy itself moves in steps: on 256 rows of digits, pruning by it lost 26 points and by this 19. x as
    the network takes it; y (rows,) classes or (rows, outputs) in the network's own units. A row whose outputs are not
    finite counts 0. Raises DataError for names or rows that do not fit."""
    masked = Masked(network, names, x)
    outputs = network.plan.steps[-1].shape
    wanted = (len(x), *outputs) if y.is_floating_point() else (len(x),)
    if not len(x) or y.shape != wanted:
        raise DataError(f"targets have shape {tuple(y.shape)}, expected {wanted}: give each of some rows its target")
    return lambda present: _worth(masked(present), y)


def _worth(outputs: Tensor, y: Tensor) -> float:
    if y.is_floating_point():
        return -float((outputs.double() - y).square().mean())
    right = outputs.float().softmax(1).gather(1, y[:, None])
    return float(right.nan_to_num(nan=0.0).double().mean())


class _Masks(NamedTuple):
    """The owners of a step's channels, (channels,), where they are masked: behind it or inside, behind a depthwise
    layer. -1 is owned by nobody."""

    outer: NDArray[np.int64] | None = None
    inner: NDArray[np.int64] | None = None


_NOWHERE = _Masks()


def _chosen(plan: Plan, names: Sequence[str]) -> tuple[frozenset[int], int]:
    """The steps of these names by index, and the channels that they share."""
    index = {step.name: i for i, step in enumerate(plan.steps) if i > 0}
    for name in names:
        if name not in index:
            raise DataError(f"step {name!r} is not in the network; {nearest(name, list(index))}")
    widths = {name: plan.steps[index[name]].shape[0] for name in names}
    if len(set(widths.values())) != 1:
        told = ", ".join(f"{name}: {width}" for name, width in widths.items())
        raise DataError(f"steps with channels {{{told}}} cannot be masked together: give some of one width")
    return frozenset(index[name] for name in names), next(iter(widths.values()))


def _behind(plan: Plan, chosen: frozenset[int]) -> list[int]:
    """The chosen steps and all that depend on them, in order."""
    found: set[int] = set()
    for i, step in enumerate(plan.steps):
        if i in chosen or not found.isdisjoint(step.inputs):
            found.add(i)
    return sorted(found)


def _masks(plan: Plan, chosen: frozenset[int], players: int) -> Mapping[int, _Masks]:
    """Where an absent channel would leave something behind: at its own step, where an identity's norm or activation
    makes another number of 0, and behind a depthwise convolution."""
    owners: list[NDArray[np.int64]] = []
    masks = {}
    for i, step in enumerate(plan.steps):
        own = np.arange(players) if i in chosen else _owned(plan, i, [owners[source] for source in step.inputs])
        owners.append(own)
        if i in chosen or (step.op == "identity" and not step.passes and own.max() >= 0):
            masks[i] = _Masks(outer=own)
        if step.op == "separable" and owners[step.inputs[0]].max() >= 0:
            masks[i] = masks.get(i, _NOWHERE)._replace(inner=owners[step.inputs[0]])
    return masks


def _owned(plan: Plan, i: int, inputs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """With which player each channel of a step disappears, (channels,), -1 for those that stay."""
    step = plan.steps[i]
    if step.op == "concat":
        return np.concatenate(inputs)
    if step.op == "flatten":
        return np.repeat(inputs[0], prod(plan.steps[step.inputs[0]].shape[1:]))
    if step.op == "sum":
        agreed = np.logical_and.reduce([other == inputs[0] for other in inputs])
        return np.where(agreed, inputs[0], -1)
    return inputs[0] if step.op in _KEEPING else np.full(step.shape[0], -1)


def _cut(x: Tensor, kept: Mask) -> Tensor:
    """The tensor (rows, channels, ...) with channels that are not kept at 0."""
    factor = torch.from_numpy(kept).to(x.device, x.dtype)
    return x * factor.view(1, -1, *[1] * (x.dim() - 2))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


# ------------------------------------------------------------------------------------------------------------- scores


def channel_scores(
    network: Network,
    names: str | Sequence[str],
    criterion: Criterion,
    x: Tensor | None = None,
    y: Tensor | None = None,
    seed: int = 0,
    *,
    permutations: int = 64,
    floor: float = 0.8,
) -> Tensor:
    """How much each channel of a step matters, (channels,) float64 on the CPU; the lowest are to be pruned first.

    Several names are steps of tied widths, projections on edges among them: they lose a channel together. Criteria:

    - norm: the L1 norm of the filter, but where a batch norm follows the size of its scale
    - activation: the mean size of what the channel puts out over the rows x
    - shapley: its Shapley value for the network's success on the rows x, y (see `game`) over `permutations` walks,
      every second the reverse of the one before, that end once less than `floor` of what the layer is worth is left:
      what a channel matters to a ruin says little about pruning (by walks to the end, networks lost half as much again)
    - random: draws from [0, 1)

    Some hundred training rows are enough, as the network takes them. Equal arguments give equal scores; the network
    stays as it is. Raises RecipeError for criteria that are unknown or cannot be had, DataError for names or rows that
    do not fit and scores that are not finite."""
    names = (names,) if isinstance(names, str) else tuple(names)
    _, channels = _chosen(network.plan, names)
    if criterion == "random":
        return torch.from_numpy(generator(seed, "importance/random").random(channels))
    if criterion == "norm":
        scores = _norms(network, names)
    elif criterion == "activation":
        scores = _activations(network, names, _given(x, criterion))
    elif criterion == "shapley":
        worth = game(network, names, _given(x, criterion), _given(y, criterion))
        scores = torch.from_numpy(_shapley(worth, channels, permutations, floor, seed))
    else:
        raise RecipeError(f"pruning criterion {criterion!r} is not known; {nearest(criterion, CRITERIA)}")
    if not bool(scores.isfinite().all()):
        raise DataError(f"the {criterion} of {', '.join(names)} is not finite: the network's weights have diverged")
    return scores


def _given(rows: Tensor | None, criterion: str) -> Tensor:
    if rows is None:
        raise RecipeError(f"pruning criterion {criterion!r} looks at rows of data and there are none: take norm")
    return rows


def _shapley(worth: Game, players: int, permutations: int, floor: float, seed: int) -> Values:
    everyone = np.ones(players, dtype=bool)
    tolerance = floor * abs(worth(everyone) - worth(~everyone))
    draws = generator(seed, "importance/shapley")
    return sampled_values(worth, players, permutations, draws, tolerance, antithetic=True)


def _norms(network: Network, names: Sequence[str]) -> Tensor:
    """How strong filters are by their weights, those of several steps added."""
    found = [norm for name in names if (norm := _filter_norm(network.get_submodule(name))) is not None]
    if not found:
        raise RecipeError(f"{', '.join(names)} has no filters of which to take the norm: take activation or shapley")
    return torch.stack(found).sum(0)


def _filter_norm(module: nn.Module) -> Tensor | None:
    """The L1 norm of each filter (Li et al. 2017), times its scale where a group norm follows. A batch norm undoes
    whatever size the filter has and leaves its scale alone (Liu et al. 2017): on digits, pruning by the scale lost 21
    points of accuracy, by norm and scale 33, by the norm 40."""
    parts = dict(module.named_children())
    layer = parts.get("conv", parts.get("pointwise", parts.get("linear")))
    if layer is None:
        return None
    norm = parts.get("norm")
    scale = None if norm is None else norm.get_parameter("weight").detach().to("cpu", torch.float64).abs()
    if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return scale
    size = layer.get_parameter("weight").detach().to("cpu", torch.float64).flatten(1).abs().sum(1)
    return size if scale is None else size * scale


def _activations(network: Network, names: Sequence[str], x: Tensor) -> Tensor:
    """Mean absolute outputs, those of several steps added. Molchanov et al. 2017, the criterion by activation."""
    found: list[Tensor] = []

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        found.append(output.abs().mean((0, *range(2, output.dim())), dtype=torch.float64).cpu())

    hooks = [network.get_submodule(name).register_forward_hook(watch) for name in names]
    try:
        with _evaluating(network):
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found).sum(0)
