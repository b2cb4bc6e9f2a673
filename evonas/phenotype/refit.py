"""What an edit that changes the function leaves behind is mended layer by layer: each layer whose input is another one
now gets the weights with which it comes closest to what it gave before, by least squares on some rows.

Layer-wise reconstruction, as He, Zhang and Sun 2017 (section 3) and Luo, Wu and Lin 2017 do for pruned channels; here
it serves every approximate morphism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evonas.core import generator
from evonas.encoding.plan import Step
from evonas.phenotype.network import Network

__all__ = ["refit"]

SAMPLES = 4096
"""Places (row, position) at which a layer's output is compared with the parent's."""
RIDGE = 1e-2
"""How strongly the weights are held to those that were carried over, beside the mean square of what they multiply."""
SHIFT = 2.0
"""Standard deviations by which a new depthwise norm lifts its output, so that a rectifier behind it passes it on."""

_PARTS = {"conv": "conv", "separable": "pointwise", "linear": "linear"}
_WINDOW = ("kernel", "stride", "padding", "dilation")
_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d)

Kept = Mapping[str, NDArray[np.int64]]
"""By step that was narrowed: which of the parent's filters stayed."""


@torch.no_grad()
def refit(before: Network, after: Network, x: Tensor, kept: Kept | None = None) -> None:
    """Changes the weights and running statistics of `after` in place, so that on the rows `x` (rows, *input shape) its
    layers give what those of one name in `before` give. Layers whose input and window stayed as they were stay, too."""
    targets = _targets(before.eval(), x, kept or {})
    old = {step.name: step for step in before.plan.steps}
    names = [step.name for step in before.plan.steps]
    same, values, steps = {names[0]}, {0: x}, after.eval().plan.steps
    last = {j: i for i, step in enumerate(steps) for j in step.inputs}
    for i, step in enumerate(steps[1:], start=1):
        module, inputs = after.get_submodule(step.name), [values[j] for j in step.inputs]
        was = old.get(step.name)
        fed = [steps[j].name for j in step.inputs]
        settled = was is not None and same.issuperset(fed) and fed == [names[j] for j in was.inputs]
        if was is not None and settled and (was.op, was.settings) == (step.op, step.settings):
            same.add(step.name)
        elif step.op in _PARTS and not (was is not None and settled and _one_window(was, step)):
            _mend(step, was, module, inputs[0], targets.get(step.name))
        elif step.op == "identity" and not settled and isinstance(getattr(module, "norm", None), _BATCH):
            _observe(module.norm, inputs[0])
        values[i] = module(*inputs)
        for j in step.inputs:
            if last[j] == i:
                values.pop(j, None)


def _one_window(was: Step, step: Step) -> bool:
    return was.op == step.op and all(was.settings.get(name) == step.settings.get(name) for name in _WINDOW)


class _Target:
    """What a layer of the parent gave before norm and activation at some places, (samples, channels)."""

    def __init__(self, output: Tensor, name: str, kept: NDArray[np.int64] | None) -> None:
        rng, self.size = generator(0, f"refit/{name}"), tuple(output.shape[2:])
        spots = len(output) * int(np.prod(self.size))
        chosen = np.sort(rng.permutation(spots)[:SAMPLES])
        self.at = [torch.from_numpy(one) for one in np.unravel_index(chosen, (len(output), *self.size))]
        found = output.movedim(1, -1)[tuple(self.at)]
        self.values = found if kept is None else found[:, torch.from_numpy(kept)]

    def fits(self, step: Step) -> bool:
        """Whether a step has as many channels, and an image where this is one."""
        return self.values.shape[1] == step.shape[0] and len(self.size) == len(step.shape) - 1

    def scaled(self, size: Sequence[int]) -> list[Tensor]:
        """The same places in an image of another size: (rows, vertical, horizontal)."""
        others = [at * new // old for at, new, old in zip(self.at[1:], size, self.size, strict=True)]
        return [self.at[0], *others]


def _targets(before: Network, x: Tensor, kept: Kept) -> dict[str, _Target]:
    found: dict[str, _Target] = {}

    def watch(step: Step) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[step.name] = _Target(output, step.name, kept.get(step.name))

        return before.get_submodule(f"{step.name}.{_PARTS[step.op]}").register_forward_hook(hook)

    hooks = [watch(step) for step in before.plan.steps if step.op in _PARTS]
    try:
        before(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _mend(step: Step, was: Step | None, module: Any, x: Tensor, target: _Target | None) -> None:
    """One layer: a depthwise part observes what comes, the linear part is fitted, the norm behind it observes."""
    part: Any = getattr(module, _PARTS[step.op])
    if step.op == "separable":
        x = _deep(module, x, new=was is not None and was.op != "separable")
    norm = getattr(module, "norm", None)
    # more unknowns than places would only be memorised, and their square is large
    if target is not None and target.fits(step) and part.weight[0].numel() <= SAMPLES:
        free = part.bias is not None or isinstance(norm, _BATCH)
        _fit(part, _seen(part, x, target.scaled(step.shape[1:])), target.values, free)
    if isinstance(norm, _BATCH):
        _observe(norm, part(x))


def _deep(module: Any, x: Tensor, new: bool) -> Tensor:
    """What a depthwise part hands on to the pointwise one; a new one lets as much pass as it can."""
    x = module.depthwise(x)
    norm = getattr(module, "depthwise_norm", None)
    if isinstance(norm, _BATCH):
        _observe(norm, x)
    if new and norm is not None:
        norm.weight.fill_(1.0)
        norm.bias.fill_(SHIFT)
    elif new:
        axes = [0, *range(2, x.dim())]
        module.depthwise.bias.add_(SHIFT * x.std(axes) - x.mean(axes))
        x = x + (SHIFT * x.std(axes) - x.mean(axes)).view(1, -1, *[1] * (x.dim() - 2))
    for name in ("depthwise_norm", "depthwise_activation"):
        x = getattr(module, name)(x) if hasattr(module, name) else x
    return x


def _observe(norm: Any, x: Tensor) -> None:
    """Running statistics of what comes."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    norm.running_mean.copy_(x.mean(axes))
    norm.running_var.copy_(x.var(axes, unbiased=x.numel() > x.shape[1]))


def _seen(part: Any, x: Tensor, at: Sequence[Tensor]) -> Tensor:
    """What a filter looks at in each place, (samples, numbers per filter)."""
    if isinstance(part, nn.Linear):
        return x[at[0]]
    (ph, pw), (dh, dw), (sh, sw), (kh, kw) = part.padding, part.dilation, part.stride, part.kernel_size
    padded = nn.functional.pad(x, (pw, pw, ph, ph))
    row, vertical, horizontal = at
    down = (vertical * sh)[:, None] + dh * torch.arange(kh)
    along = (horizontal * sw)[:, None] + dw * torch.arange(kw)
    windows = padded.movedim(1, -1)[row[:, None, None], down[:, :, None], along[:, None, :]]
    return windows.movedim(-1, 1).reshape(len(row), -1)


def _fit(part: Any, seen: Tensor, wanted: Tensor, free: bool) -> None:
    """Ridge regression from the weights that are there; with a free constant where a bias or a batch norm takes it."""
    weight = part.weight.flatten(1)
    middle, aim = (seen.mean(0), wanted.mean(0)) if free else (torch.zeros(1), torch.zeros(1))
    centred = seen - middle
    rest = wanted - aim - centred @ weight.T
    square, product = (centred.T @ centred).double(), (centred.T @ rest).double()
    scale = square.diagonal().mean().clamp_min(1e-12)
    square.diagonal().add_(RIDGE * scale)
    part.weight.add_(torch.linalg.solve(square, product).T.reshape(part.weight.shape))
    if part.bias is not None:
        part.bias.copy_(aim - part.weight.flatten(1) @ middle)
