"""What a training takes over from the parents: their weights files, the state of their optimiser, and the outputs of
the first one, which a child may be taught before it learns from the targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evonas.core import DataError, Heritage
from evonas.estimate import Distill
from evonas.phenotype import network as phenotype
from evonas.phenotype.inherit import Parent
from evonas.phenotype.network import Moments

__all__ = ["Teacher", "carry_moments", "kept_moments", "parents"]

MEMORY = 10
"""Steps that AdamW's inherited moments count for. New entries begin at 0: beside thousands of steps they would make
the first updates up to 6.6 times as large as the learning rate, beside ten they pass it by an eighth at most."""


# ------------------------------------------------------------------------------------------------------ from files


def parents(inherited: Sequence[Heritage], encoding: Any, moments: bool) -> tuple[Parent, ...]:
    """The parents with their tensors and, if `moments`, their optimisers' state.

    Raises DataError for a file that is missing or is not what the job says."""
    return tuple(_parent(one, encoding, moments) for one in inherited)


def _parent(inherited: Heritage, encoding: Any, moments: bool) -> Parent:
    tensors, carried = phenotype.parts_from_bytes(_content(inherited))
    # copies begin where torch aligns them: some processors add up by alignment, and equal jobs must give equal bits
    return Parent(
        encoding.from_json(inherited.genome),
        {name: value.clone() for name, value in tensors.items()},
        {state: {name: one.clone() for name, one in named.items()} for state, named in carried.items()}
        if moments
        else {},
    )


def _content(inherited: Heritage) -> bytes:
    whose = "inherited weights" if inherited.id is None else f"weights of parent {inherited.id}"
    try:
        data = Path(inherited.path).read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{whose}: cannot read {inherited.path}: {why}; restore it from a backup") from None
    if hashlib.sha256(data).hexdigest() != inherited.sha256:
        raise DataError(
            f"{whose}: the {len(data)} bytes of {inherited.path} do not have the SHA-256 {inherited.sha256[:16]}...: "
            "restore it from a backup"
        )
    return data


# ------------------------------------------------------------------------------------------------------- optimisers


def kept_moments(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """An optimiser's state by its name and the parameter's; AdamW's moments are corrected for their start, so that
    they say nothing of how many steps were made (Kingma and Ba 2015, section 3)."""
    kept: dict[str, dict[str, Tensor]] = {}
    decays = _decays(optimiser)
    for name, parameter in network.named_parameters():
        held = optimiser.state.get(parameter, {})
        for state, decay in decays.items():
            if held.get(state) is not None:
                correction = 1 - decay ** float(held["step"]) if decay is not None else 1.0
                kept.setdefault(state, {})[name] = held[state] / correction
    return kept


@torch.no_grad()
def carry_moments(network: nn.Module, optimiser: torch.optim.Optimizer, moments: Moments) -> None:
    """Begins an optimiser with inherited state; what the other kind of optimiser left is not used."""
    decays = _decays(optimiser)
    if not decays or not moments.keys() >= decays.keys():
        return
    for name, parameter in network.named_parameters():
        state = optimiser.state[parameter]
        for of, decay in decays.items():
            state[of] = _placed(moments[of].get(name), parameter)
            if decay is not None:
                state[of] *= 1 - decay**MEMORY
                state["step"] = torch.tensor(float(MEMORY), device=parameter.device)


def _decays(optimiser: torch.optim.Optimizer) -> dict[str, float | None]:
    """The names of an optimiser's state that children inherit; of AdamW's with the decay per step."""
    first = optimiser.param_groups[0]
    if isinstance(optimiser, torch.optim.AdamW):
        return dict(zip(("exp_avg", "exp_avg_sq"), first["betas"], strict=True))
    return {"momentum_buffer": None} if first["momentum"] else {}


def _placed(value: Tensor | None, parameter: Tensor) -> Tensor:
    """A value where and how the parameter lies in memory: fused optimisers walk through both alike."""
    held = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return held if value is None else held.copy_(value)


# ----------------------------------------------------------------------------------------------------- distillation


@dataclass(frozen=True, eq=False)
class Teacher:
    """A parent's network in evaluation mode, which a child is to agree with; `classes` says what its outputs are."""

    network: nn.Module
    settings: Distill
    classes: bool

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """What the parent says of these inputs."""
        wanted: Tensor = self.network(x)
        return wanted

    def loss(self, outputs: Tensor, wanted: Tensor, hard: Tensor) -> Tensor:
        """The distance to the parent's outputs and, for the rest of the weight, the loss on the targets.

        Logits are compared as probabilities at a temperature T, times T squared so that gradients keep their size
        (Hinton, Vinyals and Dean 2015, section 2)."""
        return self.settings.weight * self._distance(outputs, wanted) + (1 - self.settings.weight) * hard

    def _distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if not self.classes:
            return functional.mse_loss(outputs, wanted)
        heat = self.settings.temperature
        told, known = (functional.log_softmax(logits / heat, 1) for logits in (outputs, wanted))
        return functional.kl_div(told, known, reduction="batchmean", log_target=True) * heat**2
