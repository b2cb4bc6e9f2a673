"""How closely one estimate looks: fewer epochs, fewer rows, smaller images, narrower networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from evonas.core import FIDELITIES, Genome, RecipeError, nearest
from evonas.encoding.genes import DagGenome, LayerGene
from evonas.encoding.plan import Plan
from evonas.estimate import TrainSettings
from evonas.validation import show

__all__ = ["alike", "narrowed", "pooled", "side", "trained_at"]

_CHUNK = 4096
"""Images that are averaged at a time: as floats they take four times their room."""


def trained_at(settings: TrainSettings, fidelity: Mapping[str, float]) -> TrainSettings:
    """The settings of a training at a job's fidelity. Raises RecipeError for one that makes no sense."""
    if unknown := next((key for key in fidelity if key not in FIDELITIES), None):
        raise RecipeError(f"fidelity {unknown!r} is not known; {nearest(unknown, FIDELITIES)}")
    if fidelity.get("share", 0.0) > settings.share:
        raise RecipeError(
            f"fidelity share {fidelity['share']:g} is more than estimator.share {settings.share:g}: raise that"
        )
    asked = {key: int(of) if key == "epochs" and float(of).is_integer() else of for key, of in fidelity.items()}
    try:
        # as a mapping, so that the values are checked as a recipe's are; `inherit` must not ask for other epochs
        chosen = TrainSettings.model_validate({**{key: getattr(settings, key) for key in FIDELITIES}, **asked})
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"fidelity {first['loc'][0]} {show(first['input'])}: {first['msg']}") from None
    changes: dict[str, Any] = {key: getattr(chosen, key) for key in fidelity}
    if "epochs" in fidelity:
        changes["inherit"] = settings.inherit.model_copy(update={"epochs": None})
    if chosen.resolution < 1:
        small = {key: round(getattr(settings.augment, key) * chosen.resolution) for key in ("shift", "cutout")}
        changes["augment"] = settings.augment.model_copy(update=small)
    return settings.model_copy(update=changes)


def side(extent: int, resolution: float) -> int:
    """Pixels of an image's side at a resolution, at least one."""
    return max(1, round(extent * resolution))


@torch.no_grad()
def pooled(images: Tensor, resolution: float) -> Tensor:
    """Images (n, h, w, c) averaged to a smaller size, in their own type: whole numbers stay whole."""
    size = [side(extent, resolution) for extent in images.shape[1:3]]
    parts = []
    for part in torch.split(images, _CHUNK):
        small = functional.interpolate(part.permute(0, 3, 1, 2).float(), size, mode="area").permute(0, 2, 3, 1)
        parts.append((small if images.is_floating_point() else small.round()).to(images.dtype))
    return torch.cat(parts).contiguous()


def narrowed(genome: Genome, width: float) -> DagGenome:
    """A layer graph with a share of every layer's channels, at least one of each. Raises RecipeError for others."""
    if not isinstance(genome, DagGenome):
        raise RecipeError(f"width {width:g} narrows layer graphs (encoding dag) only: leave width at 1")
    return replace(genome, layers=tuple(_narrow(gene, width) for gene in genome.layers))


def _narrow(gene: LayerGene, width: float) -> LayerGene:
    return gene._replace(channels=max(1, round(gene.channels * width))) if gene.channels else gene


def alike(one: Plan, other: Plan) -> bool:
    """Whether the weights of one network fit the other."""
    return _tensors(one) == _tensors(other)


def _tensors(plan: Plan) -> list[tuple[str, Mapping[str, Any]]]:
    return [(step.name, step.settings) for step in plan.steps if step.params]
