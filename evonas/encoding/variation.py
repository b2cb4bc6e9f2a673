"""What a recipe says about direct genomes: how they begin, mutate, mate, are compared, and how large they may grow.

Words are neat-python's. Nothing here needs NumPy, so that a recipe is checked at once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from evonas.core import Count, Settings, nearest
from evonas.encoding.dag import Initial
from evonas.encoding.plan import Plan

ACTIVATIONS = (
    "sigmoid", "tanh", "sin", "gauss", "relu", "elu", "lelu", "selu", "softplus", "identity", "clamped", "inv", "log",
    "exp", "abs", "hat", "square", "cube",
)  # fmt: skip
"""Activations by code, by neat-python's names and with its scaling; a genome holds the code."""

AGGREGATIONS = ("sum", "product", "min", "max", "maxabs", "median", "mean")
"""Aggregations by code, by neat-python's names."""

Rate = Annotated[float, Field(ge=0, le=1)]


def _ascending(span: tuple[int, int]) -> tuple[int, int]:
    if span[0] > span[1]:
        raise ValueError(f"runs from {span[0]} down to {span[1]}: write the smaller number first")
    return span


HiddenCount = Annotated[
    tuple[Annotated[int, Field(ge=0)], int],
    BeforeValidator(lambda value: (value, value) if isinstance(value, int) else value),
    AfterValidator(_ascending),
]


class ValueGene(Settings):
    """How a number in a gene (a weight, bias or response) is drawn at first and mutated; neat-python's terms."""

    mean: float = 0.0
    """Centre of the first draw."""
    deviation: float = Field(default=1.0, ge=0)
    """Standard deviation of the first draw; with `draw: uniform` its half-width."""
    draw: Literal["gauss", "uniform"] = "uniform"
    """How first and redrawn values are distributed."""
    min: float = -8.0
    """Smallest value."""
    max: float = 8.0
    """Largest value."""
    mutate: Rate = 0.9
    """Probability per gene that its value is perturbed."""
    replace: Rate = 0.1
    """Probability per gene that its value is drawn anew instead, as far as `mutate` leaves room."""
    power: float = Field(default=2.5, ge=0)
    """Size of a perturbation: standard deviation, or half-width with `perturb: uniform`."""
    perturb: Literal["gauss", "uniform"] = "uniform"
    """How perturbations are distributed."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.min < self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}: leave room between them")
        if not self.min <= self.mean <= self.max:
            raise ValueError(
                f"mean {self.mean:g} lies outside {self.min:g} .. {self.max:g}: move it or widen the range"
            )
        return self


class ChoiceGene(Settings):
    """How a choice in a gene is made at first and mutated."""

    known: ClassVar[tuple[str, ...]] = ()

    default: str
    """The first choice, and that of a new node; `random` draws one of the options."""
    options: Annotated[tuple[str, ...], Field(min_length=1)]
    """What can be chosen."""
    mutate: Rate = 0.0
    """Probability per node that it is chosen anew from the options."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.options, *(() if self.default == "random" else (self.default,))):
            if name not in self.known:
                raise ValueError(f"{name!r} is not known; {nearest(name, self.known)}")
        if len(set(self.options)) < len(self.options):
            raise ValueError("options lists one twice: every option is drawn equally often")
        return self


class ActivationGene(ChoiceGene):
    """How a node's activation is chosen at first and mutated."""

    known: ClassVar[tuple[str, ...]] = ACTIVATIONS

    default: str = "sigmoid"
    """The first choice, and that of a new node; `random` draws one of the options."""
    options: Annotated[tuple[str, ...], Field(min_length=1)] = ("sigmoid",)
    """What can be chosen: sigmoid, tanh, sin, gauss, relu, ... with neat-python's scaling."""


class AggregationGene(ChoiceGene):
    """How a node's aggregation of its inputs is chosen at first and mutated."""

    known: ClassVar[tuple[str, ...]] = AGGREGATIONS

    default: str = "sum"
    """The first choice, and that of a new node; `random` draws one of the options."""
    options: Annotated[tuple[str, ...], Field(min_length=1)] = ("sum",)
    """What can be chosen: sum, product, min, max, maxabs, median, mean."""


class Structure(Settings):
    """Probabilities per child of structural mutations; new genes start unmutated."""

    add_node: Rate = 0.03
    """Put a node into an enabled link: the link is disabled, the one into the node weighs 1, the one out as it did."""
    add_link: Rate = 0.05
    """Link two nodes that are not linked, or enable their disabled link; the place is drawn up to 20 times."""
    remove_node: Rate = 0.0
    """Take out a hidden node and its links."""
    remove_link: Rate = 0.0
    """Take out a link."""
    toggle: Rate = 0.0
    """Enable or disable one link."""
    single: bool = False
    """At most one structural mutation per child; probabilities whose sum is above 1 are divided by it."""


class CrossoverSettings(Settings):
    """How two genomes are mated. Stanley and Miikkulainen 2002, 3.2."""

    disabled: Rate = 0.75
    """Probability that an inherited link is disabled if it was in either parent; otherwise it is enabled."""
    average: Rate = 0.0
    """Probability per pair that the numbers of matching genes are averaged instead of chosen at random."""


class DistanceSettings(Settings):
    """Compatibility distance. Stanley and Miikkulainen 2002, equation 1."""

    formula: Literal["paper", "normalised", "counts"] = "paper"
    """paper: c1 E/N + c2 D/N + c3 W over links, N = links of the larger genome, 1 below 20; counts: without N, as the
    paper's author's program; normalised: neat-python's, nodes and links each divided by the larger number."""
    excess: float = Field(default=1.0, ge=0)
    """c1, for genes newer than all of the other genome's; the normalised formula takes `disjoint` for them too."""
    disjoint: float = Field(default=1.0, ge=0)
    """c2, for other genes that only one genome has."""
    weight: float = Field(default=0.4, ge=0)
    """c3, for the mean difference of matching weights; normalised: for all differences of matching genes."""


class NeatBounds(Settings):
    """Limits that a network must keep at birth; none where a field is null."""

    hidden: Annotated[Count, Field(ge=0)] | None = None
    """Most hidden nodes; at this size a genome grows no further."""
    connections: Annotated[Count, Field(ge=1)] | None = None
    """Most links, disabled ones included; at this size a genome grows no further."""
    params: Annotated[Count, Field(ge=1)] | None = None
    """Most weights of enabled links and biases; a child beyond it becomes a copy of its fitter parent."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Most nodes on a path from input to output; of a recurrent network, on the shortest such path of the output that
    is farthest from the inputs. A child beyond it becomes a copy of its fitter parent."""

    def violation(self, plan: Plan) -> str | None:
        """Which bound the plan breaks, as `hidden 12 > 10`, or None."""
        graph = plan.steps[-1].settings
        hidden, connections = len(graph["nodes"]) - int(graph["outputs"]), len(graph["links"])
        sizes = {"hidden": hidden, "connections": connections, "params": plan.params, "depth": plan.depth}
        for name, value in sizes.items():
            most = getattr(self, name)
            if most is not None and value > most:
                return f"{name} {value} > {most}"
        return None


class BreedingSettings(Settings):
    """How direct genomes are made, mutated, mated and compared. Defaults: Stanley and Miikkulainen 2002, with a bias in
    every node instead of a bias input."""

    feed_forward: bool = True
    """No cycles, counting disabled links too; false allows any link, also from a node to itself."""
    weight: ValueGene = ValueGene()
    """Weights of links."""
    bias: ValueGene = ValueGene()
    """Biases of nodes."""
    response: ValueGene = ValueGene(mean=1.0, deviation=0.0, mutate=0.0, replace=0.0)
    """Factors on nodes' aggregated inputs."""
    mutate_weights: Rate = 0.8
    """Probability per child that its numbers (weights, biases, responses) are mutated at all."""
    activation: ActivationGene = ActivationGene()
    """Activations of nodes."""
    aggregation: AggregationGene = AggregationGene()
    """Aggregations of nodes."""
    structure: Structure = Structure()
    """Structural mutations."""
    crossover: CrossoverSettings = CrossoverSettings()
    """Mating."""
    distance: DistanceSettings = DistanceSettings()
    """Compatibility distance."""
    initial_connection: Literal["none", "full", "fraction", "single"] = "full"
    """Links of the first genomes: none; full, every input to every output (and through the hidden nodes, if any);
    fraction, that share of them at random; single, one input at random to every output (FS-NEAT)."""
    initial_fraction: Rate = 0.5
    """Share of the links that a first genome gets with `initial_connection: fraction`."""
    initial_hidden: HiddenCount = (0, 0)
    """Smallest and largest number of hidden nodes of the first genomes, or one number."""
    bounds: NeatBounds = NeatBounds()
    """Limits at birth."""

    @model_validator(mode="after")
    def _room(self) -> Self:
        most = self.bounds.hidden
        if most is not None and self.initial_hidden[1] > most:
            raise ValueError(f"initial_hidden {self.initial_hidden[1]} is above bounds.hidden {most}: lower it")
        return self


class NeatSettings(BreedingSettings):
    """Direct genomes: networks of single nodes and links, feed-forward or recurrent, that grow link by link."""

    faces: ClassVar[frozenset[str]] = frozenset({"distance"})
    """What strategies may ask of this encoding beyond making, mutating and mating genomes."""

    kind: Literal["neat"] = "neat"
    initial: Initial = ()
    """Genomes to begin with: names from the zoo, paths of genome files, or runs (`run:NAME` for a front, `run:NAME/ID`
    for one of it, `run:./path/to/run` elsewhere); new ones fill up the first generation."""
