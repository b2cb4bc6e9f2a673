"""The search strategies: who is born next. One file each; add one by writing its settings here and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from math import ceil, log
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from evonas import imported
from evonas.core import Settings, Strategy, nearest
from evonas.imported import Imported

DEAP_SELECTION: dict[str, tuple[str, ...]] = {
    "selAutomaticEpsilonLexicase": (),
    "selBest": (),
    "selDoubleTournament": ("fitness_size", "parsimony_size", "fitness_first"),
    "selEpsilonLexicase": ("epsilon",),
    "selLexicase": (),
    "selNSGA2": ("nd",),
    "selNSGA3": ("divisions", "nd"),
    "selRandom": (),
    "selRoulette": (),
    "selSPEA2": (),
    "selStochasticUniversalSampling": (),
    "selTournament": ("tournsize",),
    "selTournamentDCD": (),
    "selWorst": (),
}
"""DEAP's selection operators and the settings each takes."""

REQUIRED = {
    "selDoubleTournament": ("fitness_size", "parsimony_size", "fitness_first"),
    "selEpsilonLexicase": ("epsilon",),
    "selTournament": ("tournsize",),
}


class DeapSelection(Settings):
    """One of DEAP's own selection operators, with its settings."""

    name: str
    """The operator's name in deap.tools, such as selTournament, selSPEA2 or selNSGA3."""
    settings: dict[str, int | float | bool | str] = Field(default_factory=dict)
    """Its keyword arguments, such as tournsize; selNSGA3 takes `divisions` for its reference points."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DEAP_SELECTION:
            raise ValueError(f"{name!r} is no DEAP selection operator; {nearest(name, list(DEAP_SELECTION))}")
        return name

    @model_validator(mode="after")
    def _fits(self) -> DeapSelection:
        known = DEAP_SELECTION[self.name]
        for key in self.settings:
            if key not in known:
                raise ValueError(f"{self.name} has no setting {key!r}; {nearest(key, known or ('none',))}")
        missing = [key for key in REQUIRED.get(self.name, ()) if key not in self.settings]
        if missing:
            raise ValueError(f"{self.name} needs settings {', '.join(missing)}")
        return self


class SpeciationSettings(Settings):
    """How the population is divided into species."""

    threshold: float = Field(default=1.0, gt=0)
    """Compatibility distance to a representative within which a genome belongs to its species."""
    target: int | None = Field(default=6, ge=1)
    """Number of species that the threshold is steered towards; null keeps the threshold fixed."""
    step: float = Field(default=0.1, gt=0, lt=1)
    """Share by which the threshold changes per generation while the number of species is off target."""
    restrict_mating: bool = False
    """Mate only within a species; the species are otherwise for inspection. NEAT always does."""


class Nsga2Settings(Settings):
    """NSGA-II (Deb et al. 2002): (mu + lambda) survival by Pareto rank and crowding, binary tournaments for parents."""

    kind: Literal["nsga2"] = "nsga2"
    population: int = Field(default=20, ge=2, le=1_000_000)
    """Individuals that survive a generation (mu)."""
    offspring: int | None = Field(default=None, ge=1, le=1_000_000)
    """Children per generation (lambda); null means as many as the population. Small numbers make steady batches."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all, the first random one included."""
    crossover: float = Field(default=0.5, ge=0, le=1)
    """Probability that a pair of parents is mated."""
    mutation: float = Field(default=0.9, ge=0, le=1)
    """Probability that a child is mutated; a child that was not mated always is."""
    select: Literal["tournament"] | DeapSelection = "tournament"
    """How parents are chosen: evonas' binary tournament, or one of DEAP's operators."""
    survive: Literal["rank-and-crowding"] | DeapSelection = "rank-and-crowding"
    """Who survives: by rank and crowding with ties broken by id, or one of DEAP's operators."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division into species; null switches it off."""


class RandomSettings(Settings):
    """Random search: every individual is drawn afresh; the baseline that every comparison carries."""

    kind: Literal["random"] = "random"
    population: int = Field(default=20, ge=1, le=1_000_000)
    """Individuals drawn per generation."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all."""
    steps: int = Field(default=12, ge=0, le=1000)
    """Each genome is a random one changed by up to this many random mutations, so that large networks are drawn too."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of each batch into species; null switches it off."""


class NeatStrategySettings(Settings):
    """NEAT (Stanley and Miikkulainen 2002): species share their fitness and reproduce in proportion to it."""

    kind: Literal["neat"] = "neat"
    population: int = Field(default=150, ge=2, le=10_000_000)
    """Individuals of a generation."""
    generations: int = Field(default=100, ge=1, le=10_000_000)
    """Generations in all, the first random one included."""
    goal: dict[str, float] = Field(default_factory=dict)
    """Recorded values by name that solve the task when one individual reaches them all; the run then ends."""
    speciation: SpeciationSettings | None = Field(
        default_factory=lambda: SpeciationSettings(threshold=3.0, target=None)
    )
    """Division into species; null makes the population one species."""
    survival: float = Field(default=0.2, gt=0, le=1)
    """Share of each species, the fittest, that has children."""
    elitism: int = Field(default=1, ge=0)
    """The best of a large species that are copied unchanged."""
    elite_size: int = Field(default=5, ge=0)
    """A species is large when it has more members than this."""
    stagnation: int = Field(default=15, ge=1)
    """Generations without improvement after which a species has no children."""
    species_elitism: int = Field(default=2, ge=0)
    """The best species that have children however long they stagnate."""
    population_stagnation: int | None = Field(default=20, ge=1)
    """Generations without improvement of the whole population after which only the two best species have children; null
    for never."""
    mutate_only: float = Field(default=0.25, ge=0, le=1)
    """Share of the children that have one parent."""
    mate_only: float = Field(default=0.0, ge=0, le=1)
    """Share of the children of two parents that are not mutated."""
    interspecies: float = Field(default=0.001, ge=0, le=1)
    """Probability that the second parent comes from another species."""
    extinct: Literal["restart", "stop"] = "restart"
    """A population that dies out begins anew with random genomes, or the run stops with an error."""


class LemonadeSettings(Settings):
    """LEMONADE (Elsken, Metzen and Hutter 2019): the front is the population, and thinly settled sizes come first."""

    kind: Literal["lemonade"] = "lemonade"
    population: int = Field(default=8, ge=1, le=1_000_000)
    """Individuals of the first generation; from then on the population is the front, as large as that is."""
    generations: int = Field(default=20, ge=1, le=10_000_000)
    """Generations in all, the first one included."""
    proposals: int = Field(default=32, ge=1, le=1_000_000)
    """Children proposed per generation, of which only the cheap objectives are computed (n_pc)."""
    offspring: int = Field(default=8, ge=1, le=1_000_000)
    """Children accepted of them and estimated (n_ac)."""
    density: bool = True
    """Parents and children are drawn in inverse proportion to the density of the population's cheap objectives; false
    draws them all alike."""
    scale: Literal["log", "auto"] = "log"
    """How the density takes sizes that are all positive. log: by their ratios, so that small and large networks get
    equal shares; auto: by their differences until the population's lie more than 20-fold apart, which draws the search
    towards large networks for as long."""
    crossover: float = Field(default=0.0, ge=0, le=1)
    """Probability that a child has a second parent, drawn like the first; it is mutated all the same."""
    continued: float = Field(default=0.0, ge=0, le=1)
    """Probability that one of the offspring is no child but a member of the population as it is, which is trained on
    from its weights (estimator.inherit). Those that were trained least come first."""
    limit: int | None = Field(default=None, ge=1)
    """Most individuals of a population, the least crowded of the front; null for the whole front."""
    window: int = Field(default=1, ge=1, le=10_000)
    """Generations under way at once: each is born of the results of all but the last window - 1 before it, so that
    workers need not wait for the slowest estimate. The run is the same on any number of workers."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division into species; null switches it off."""

    @model_validator(mode="after")
    def _acceptable(self) -> LemonadeSettings:
        if self.offspring > self.proposals:
            raise ValueError(
                f"offspring {self.offspring} cannot be accepted of {self.proposals} proposals: raise proposals"
            )
        return self


class RegularizedSettings(Settings):
    """Regularised evolution (Real et al. 2018): the best of a random sample has a child, and the oldest dies."""

    kind: Literal["regularized"] = "regularized"
    population: int = Field(default=100, ge=1, le=1_000_000)
    """Individuals that live at a time, the youngest."""
    generations: int = Field(default=1000, ge=1, le=10_000_000)
    """Generations in all, the first random one included."""
    sample: int = Field(default=25, ge=1, le=1_000_000)
    """Individuals drawn with replacement, the best of which is the parent."""
    offspring: int = Field(default=1, ge=1, le=1_000_000)
    """Children per generation, all of the same population: so many steps of the paper's at once keep workers busy."""
    window: int = Field(default=1, ge=1, le=10_000)
    """Generations under way at once: each is born of the results of all but the last window - 1 before it, so that
    workers need not wait for the slowest estimate. The run is the same on any number of workers."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of the population into species; null switches it off."""


class HillClimbingSettings(Settings):
    """Hill climbing (Elsken et al. 2017, Kwasigroch et al. 2019): the best of some neighbours is the next to change."""

    kind: Literal["hill_climbing"] = "hill_climbing"
    population: int = Field(default=1, ge=1, le=1_000_000)
    """Individuals of the first generation; the best of them is climbed from, alone."""
    generations: int = Field(default=9, ge=1, le=10_000_000)
    """Generations in all: the first one and a step each."""
    neighbours: int = Field(default=8, ge=1, le=1_000_000)
    """Children of the current best per step."""
    edits: int = Field(default=5, ge=1, le=20)
    """Mutations that lead to a neighbour, one after the other."""
    continue_best: bool = True
    """The current best competes as one more child that is estimated again, so that inherited weights train on; false
    lets it compete by the estimate that it has."""
    speciation: SpeciationSettings | None = None
    """Division of the population, a single one, into species; null switches it off."""

    @property
    def offspring(self) -> int:
        """Children per generation."""
        return self.neighbours + self.continue_best


class GridSettings(Settings):
    """Grid search: every genome of the space, one after the other; the run ends with the last of them."""

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    """Faces of the encoding that it asks for."""

    kind: Literal["grid"] = "grid"
    population: int = Field(default=20, ge=1, le=1_000_000)
    """Individuals of a generation."""
    generations: int = Field(default=10_000_000, ge=1, le=10_000_000)
    """Generations in all, unless the grid or the budget ends before."""
    every: int = Field(default=1, ge=1, le=1_000_000)
    """Only each so many of the choices at every place, the first one included: a coarse grid."""
    order: Literal["lexicographic", "spread"] = "lexicographic"
    """lexicographic: the last place changes fastest. spread: in equal long steps, so that a part of the grid covers the
    whole space."""
    speciation: SpeciationSettings | None = None
    """Division of each batch into species; null switches it off."""


class LocalSearchSettings(Settings):
    """Local search (White, Nolen and Savani 2021): from a genome to a better neighbour, one choice away, and from where
    there is none again to a random one. No genome is estimated twice."""

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    """Faces of the encoding that it asks for."""

    kind: Literal["local_search"] = "local_search"
    population: int = Field(default=1, ge=1, le=1_000_000)
    """Random genomes at the start and at every restart, the best of which is climbed from."""
    generations: int = Field(default=100_000, ge=1, le=10_000_000)
    """Generations in all, unless the budget or the space ends before."""
    neighbours: int | None = Field(default=1, ge=1, le=1_000_000)
    """Neighbours, in random order, that are estimated at a time before the best of them is moved to if it is better: 1
    moves to the first improvement, null to the best of all."""
    speciation: SpeciationSettings | None = None
    """Division of the population, a single one, into species; null switches it off."""


class MuPlusLambdaSettings(Settings):
    """The (mu + lambda), (mu, lambda) and generational algorithms of DEAP, on the first objective."""

    kind: Literal["mu_plus_lambda"] = "mu_plus_lambda"
    algorithm: Literal["plus", "comma", "generational"] = "plus"
    """plus: survivors are chosen of parents and children. comma: of the children alone. generational: parents are
    chosen, and their children take their places. DEAP's eaMuPlusLambda, eaMuCommaLambda and eaSimple."""
    population: int = Field(default=20, ge=2, le=1_000_000)
    """Individuals of a generation (mu)."""
    offspring: int | None = Field(default=None, ge=1, le=1_000_000)
    """Children per generation (lambda); null means as many as the population."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all, the first random one included."""
    crossover: float = Field(default=0.3, ge=0, le=1)
    """Probability that a child has two parents."""
    mutation: float = Field(default=0.6, ge=0, le=1)
    """Probability that a child is mutated: instead of mated with plus and comma, what is left to 1 being copies; with
    generational besides."""
    select: DeapSelection | None = None
    """DEAP's operator that chooses survivors, or with generational parents; null means the best with plus and comma,
    tournaments of three with generational."""
    elitism: int = Field(default=0, ge=0, le=1_000_000)
    """The best so many of a generation that stay in any case; DEAP's own algorithms have none."""
    repeats: bool = False
    """Whether a child may equal one of the population, as with DEAP; false mutates it until it is new."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of the population into species; null switches it off."""

    @model_validator(mode="after")
    def _fits(self) -> MuPlusLambdaSettings:
        children = self.offspring or self.population
        if self.algorithm == "comma" and children < self.population:
            raise ValueError(f"offspring {children} cannot fill a population of {self.population}: raise offspring")
        if self.algorithm == "generational" and children != self.population:
            raise ValueError(f"with generational there are as many children as parents: leave offspring {children} out")
        if self.algorithm != "generational" and self.crossover + self.mutation > 1 + 1e-9:
            total = self.crossover + self.mutation
            raise ValueError(f"crossover and mutation exclude each other with {self.algorithm}: {total:g} is above 1")
        if not self.crossover + self.mutation:
            raise ValueError("crossover and mutation are both 0, so that nothing would ever change: raise one")
        if self.elitism > self.population:
            raise ValueError(f"elitism {self.elitism} is more than the population {self.population}: lower it")
        return self

    @property
    def selection(self) -> DeapSelection:
        """The operator that `select` means."""
        if self.algorithm == "generational":
            return self.select or DeapSelection(name="selTournament", settings={"tournsize": 3})
        return self.select or DeapSelection(name="selBest")


class Nsga3Settings(Settings):
    """NSGA-III (Deb and Jain 2014): survival by Pareto rank, then evenly among reference directions; for three and more
    objectives."""

    kind: Literal["nsga3"] = "nsga3"
    population: int = Field(default=92, ge=2, le=1_000_000)
    """Individuals that survive a generation; a little more than there are reference directions is best."""
    offspring: int | None = Field(default=None, ge=1, le=1_000_000)
    """Children per generation; null means as many as the population."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all, the first random one included."""
    divisions: int | None = Field(default=None, ge=1, le=1000)
    """Parts that each objective's axis is divided into by the reference directions; null means as many as give no more
    directions than the population."""
    inner: int | None = Field(default=None, ge=1, le=1000)
    """Divisions of a second layer of directions, half as far from the middle, for many objectives; null means none."""
    crossover: float = Field(default=0.5, ge=0, le=1)
    """Probability that a pair of parents is mated."""
    mutation: float = Field(default=0.9, ge=0, le=1)
    """Probability that a child is mutated; a child that was not mated always is."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division into species; null switches it off."""


class LearningSettings(Settings):
    """What every strategy has that learns from tokens one generation after the other."""

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    """Faces of the encoding that it asks for."""

    population: int = Field(default=1, ge=1, le=1_000_000)
    """Individuals of a generation, after which the model learns: as many as there are workers keep them busy. Everyone
    lives on to be learnt from."""
    generations: int = Field(default=1000, ge=1, le=10_000_000)
    """Generations in all, unless the budget ends the run sooner."""
    repeats: bool = False
    """Whether what was estimated before may be drawn again, as in the papers; false draws until it is new."""
    speciation: SpeciationSettings | None = None
    """Division of everyone into species; null switches it off."""


class ControllerSettings(LearningSettings):
    """A controller: a distribution over genomes that is moved towards what was rewarded."""

    controller: Literal["lstm", "table"] = "lstm"
    """How choices are drawn: by an LSTM that reads those before, or by a table of independent probabilities."""
    units: int = Field(default=64, ge=1, le=4096)
    """Units of the LSTM, and numbers that embed a choice."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """Step size of Adam; null for 0.005 with the LSTM, whose weights all move a choice, and 0.1 with the table."""
    decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of the baseline that stays from one generation to the next; the rest is their mean reward."""
    entropy: float = Field(default=0.0, ge=0, le=10)
    """Reward for the entropy of the distribution, so that it does not settle too early; rewards are in [0, 1]."""

    @property
    def rate(self) -> float:
        """Step size of Adam."""
        return self.learning_rate or {"lstm": 0.005, "table": 0.1}[self.controller]


class ReinforceSettings(ControllerSettings):
    """REINFORCE (Zoph and Le 2017): a controller draws genomes and is moved up the gradient of their rewards."""

    kind: Literal["reinforce"] = "reinforce"


class PpoSettings(ControllerSettings):
    """PPO (Schulman et al. 2017, Zoph et al. 2018): several steps from one batch, none of which leads too far."""

    kind: Literal["ppo"] = "ppo"
    population: int = Field(default=10, ge=1, le=1_000_000)
    """Individuals of a generation, the batch that the controller learns from."""
    epochs: int = Field(default=10, ge=1, le=1000)
    """Steps of Adam per batch."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far a choice's probability may move from 1 times what it was when it was drawn."""


class QLearningSettings(LearningSettings):
    """Q-learning (MetaQNN, Baker et al. 2017): a table of what each choice leads to, followed more and more closely."""

    kind: Literal["q_learning"] = "q_learning"
    state: Literal["previous", "prefix"] = "previous"
    """What the value of a choice depends on beside its place: the choice before it, or all choices before it."""
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of the way that a value moves towards what it was found to lead to."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What a later value counts for, per place."""
    replay: int = Field(default=100, ge=0, le=1_000_000)
    """Genomes drawn from all that were estimated, from which the table learns again after each generation."""
    explore: float = Field(default=0.2, ge=0, le=1)
    """Share of the planned search at the beginning in which every choice is drawn at random."""
    settle: float = Field(default=0.6, ge=0, le=1)
    """Share of the planned search after which epsilon, which falls evenly from 1, is least."""
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """Probability at last of a random choice; otherwise it is the one of the highest value."""

    @model_validator(mode="after")
    def _ordered(self) -> QLearningSettings:
        if self.explore > self.settle:
            raise ValueError(f"explore {self.explore:g} ends after settle {self.settle:g}: raise settle")
        return self


class MctsSettings(LearningSettings):
    """Monte Carlo tree search (UCT, Kocsis and Szepesvari 2006; of networks Wang et al. 2018): choice by choice towards
    what was good or seldom tried, then at random."""

    kind: Literal["mcts"] = "mcts"
    exploration: float = Field(default=0.1, ge=0, le=100)
    """Weight of what was seldom tried beside the mean reward in [0, 1] (c)."""


class PnasSettings(LearningSettings):
    """PNAS (Liu et al. 2018): genomes grow place by place, and a predictor says which are estimated."""

    kind: Literal["pnas"] = "pnas"
    population: int = Field(default=10, ge=1, le=1_000_000)
    """Individuals of a generation, and how many of those estimated are grown on (K)."""
    step: int = Field(default=1, ge=1, le=64)
    """Places that are decided at a time: 4 for a node of two edges, whose sources and operations are chosen."""
    neutral: tuple[str, ...] = ("skip", "none")
    """What stands at places not decided yet: the first of these that is a choice there, else the first choice."""
    beam: int = Field(default=100, ge=1, le=1_000_000)
    """Partial genomes kept by their predicted rank, once whole ones are proposed."""
    members: int = Field(default=5, ge=2, le=100)
    """Predictors, each without its part of the data, whose mean ranks the proposals."""
    ridge: float = Field(default=0.1, gt=0, le=1e9)
    """How strongly the predictors are drawn towards the mean."""


class RungSettings(Settings):
    """What strategies share that look at many candidates briefly and at the best of them closely.

    A candidate that is promoted is a new individual with the same genome. With `estimator.inherit: weights` its
    training goes on: a rung of 9 epochs after one of 3 then adds 6. Without, it trains anew."""

    population: int = Field(default=27, ge=1, le=1_000_000)
    """Candidates of a bracket's first rung; of hyperband's widest bracket."""
    generations: int = Field(default=1000, ge=1, le=10_000_000)
    """Rungs in all; after the last rung of a bracket the next one begins."""
    resource: Literal["epochs", "share", "resolution", "width"] = "epochs"
    """What a higher rung has more of: epochs, or a share of the rows, of an image's side, of the channels."""
    min: float = Field(default=1.0, gt=0, le=100_000)
    """The least of it; 1 epoch, or a ninth of shares, unless given."""
    max: float = Field(default=27.0, gt=0, le=100_000)
    """The most of it; 27 epochs, or all of shares, unless given."""
    eta: float = Field(default=3.0, gt=1, le=1000)
    """One candidate in so many is promoted, and looked at with so many times the resource."""
    rungs: tuple[Annotated[float, Field(gt=0, le=100_000)], ...] = ()
    """The resource of every rung, ascending, in place of min and max."""
    evolved: float = Field(default=0.0, ge=0, le=1)
    """Share of a bracket's candidates that are mutated from the best that reached the last rung; the rest is random."""
    steps: int = Field(default=12, ge=0, le=1000)
    """Random genomes are changed by up to this many random mutations, so that large networks are drawn too."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of the population into species; null switches it off."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """Shares end at 1."""
        if isinstance(value, Mapping) and value.get("resource", "epochs") != "epochs":
            return {"min": 1 / 9, "max": 1.0, **value}
        return value

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        levels = self.levels
        if self.min > self.max or any(a >= b for a, b in pairwise(levels)):
            listed = ", ".join(f"{one:g}" for one in levels)
            raise ValueError(f"rungs {listed} do not ascend: look at min, max and rungs")
        whole = all(float(one).is_integer() for one in self.rungs)
        if self.resource == "epochs" and not (whole and levels[0] >= 1):
            raise ValueError("epochs of a rung are whole numbers: look at min and rungs")
        if self.resource != "epochs" and levels[-1] > 1:
            raise ValueError(f"{self.resource} {levels[-1]:g} is a share: at most 1")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """The resource of every rung, ascending: eta times as much each, up to `max`."""
        if self.rungs:
            return self.rungs
        if self.min > self.max:
            return (self.min, self.max)
        steps = int(log(self.max / self.min) / log(self.eta) + 1e-9)
        levels = [self.max * self.eta**-i for i in range(steps, -1, -1)]
        return tuple(float(round(one)) if self.resource == "epochs" else one for one in levels)


class HalvingSettings(RungSettings):
    """Successive halving (Jamieson and Talwalkar 2016): of some candidates the best share goes on to the next rung."""

    kind: Literal["successive_halving"] = "successive_halving"

    @property
    def brackets(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """The one kind of bracket: candidates and resource of every rung."""
        return (bracket(self.population, self.eta, self.levels),)


class HyperbandSettings(RungSettings):
    """Hyperband (Li et al. 2018): brackets of successive halving that begin with many candidates looked at briefly, and
    then with fewer looked at more closely, since nobody knows how far a brief look can be trusted."""

    kind: Literal["hyperband"] = "hyperband"

    @property
    def brackets(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """Brackets in turn: candidates and resource of every rung. Li et al. 2018."""
        last = len(self.levels) - 1
        unit = self.population / self.eta**last
        widths = [ceil(unit * (last + 1) / (s + 1) * self.eta**s - 1e-9) for s in range(last, -1, -1)]
        return tuple(bracket(count, self.eta, self.levels[first:]) for first, count in enumerate(widths))


def bracket(count: int, eta: float, levels: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """Candidates and resource of every rung, at least one candidate each."""
    return tuple((max(1, int(count * eta**-i + 1e-9)), level) for i, level in enumerate(levels))


class PredictingSettings(Settings):
    """What strategies share that predict how good genomes are by all that were estimated before."""

    population: int = Field(default=40, ge=2, le=1_000_000)
    """Founders and random genomes of the first generation, of which the first predictions are made: a third to a half
    of all that will be estimated. Everyone lives on to be learnt from."""
    generations: int = Field(default=1000, ge=1, le=10_000_000)
    """Generations in all, unless the budget ends the run sooner."""
    offspring: int = Field(default=1, ge=1, le=10_000)
    """Individuals estimated per generation: as many as there are workers keep them busy. After the first, each is
    chosen as if those before had turned out as predicted."""
    parents: int | None = Field(default=None, ge=1, le=10_000)
    """The best so many, whose mutations are proposed, drawn at random where more are as good; null means 3, with
    several objectives 10."""
    children: int = Field(default=40, ge=1, le=10_000)
    """Mutations of each of them that are proposed, as far as they are new."""
    strangers: int = Field(default=20, ge=0, le=100_000)
    """Random genomes that are proposed beside them."""
    speciation: SpeciationSettings | None = None
    """Division of everyone into species; null switches it off."""


class BayesianSettings(PredictingSettings):
    """Bayesian optimisation (Jones et al. 1998; of networks Jin et al. 2019): a Gaussian process over the encoding's
    distance, and what it expects to improve most is estimated."""

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    """Faces of the encoding that it asks for."""

    kind: Literal["bayesian"] = "bayesian"


class SurrogateSettings(PredictingSettings):
    """Surrogate-assisted search: a predictor over the encoding's features says which children of the best improve them
    most, or gain most hypervolume with several objectives. The one to take where an estimate is expensive."""

    needs: ClassVar[tuple[str, ...]] = ("features",)
    """Faces of the encoding that it asks for."""

    kind: Literal["surrogate"] = "surrogate"
    strangers: int = Field(default=100, ge=0, le=100_000)
    """Random genomes that are proposed beside them."""
    predictor: Literal["process", "ridge"] = "process"
    """A Gaussian process, or ridge regression on features and pairs of them, which explores less: it has no doubts."""
    ridge: float = Field(default=0.5, gt=0, le=1e9)
    """How strongly ridge regression is drawn towards the mean."""


class ImportedStrategy(Imported):
    """A user's own strategy, called with the problem and these settings; it has the faces `ask` and `tell`."""

    population: int = Field(default=20, ge=1, le=1_000_000)
    """Individuals of a generation, for what it asks of that."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all: how often it is asked and told."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of the population into species; null switches it off."""


TABLE: dict[str, type[Settings]] = {
    "bayesian": BayesianSettings,
    "grid": GridSettings,
    "hill_climbing": HillClimbingSettings,
    "hyperband": HyperbandSettings,
    "lemonade": LemonadeSettings,
    "local_search": LocalSearchSettings,
    "mcts": MctsSettings,
    "mu_plus_lambda": MuPlusLambdaSettings,
    "neat": NeatStrategySettings,
    "nsga2": Nsga2Settings,
    "nsga3": Nsga3Settings,
    "pnas": PnasSettings,
    "ppo": PpoSettings,
    "q_learning": QLearningSettings,
    "random": RandomSettings,
    "regularized": RegularizedSettings,
    "reinforce": ReinforceSettings,
    "successive_halving": HalvingSettings,
    "surrogate": SurrogateSettings,
}
"""Settings of every strategy by its `kind`."""

_MADE_BY: dict[str, str] = {
    "bayesian": "bayesian:Bayesian",
    "grid": "grid:Grid",
    "hill_climbing": "hill_climbing:HillClimbing",
    "hyperband": "halving:Halving",
    "lemonade": "lemonade:Lemonade",
    "local_search": "local_search:LocalSearch",
    "mcts": "mcts:Mcts",
    "mu_plus_lambda": "mu_plus_lambda:MuPlusLambda",
    "neat": "neat:Neat",
    "nsga2": "nsga2:Nsga2",
    "nsga3": "nsga3:Nsga3",
    "pnas": "pnas:Pnas",
    "ppo": "ppo:Ppo",
    "q_learning": "q_learning:QLearning",
    "random": "random:RandomSearch",
    "regularized": "regularized:Regularized",
    "reinforce": "reinforce:Reinforce",
    "successive_halving": "halving:Halving",
    "surrogate": "surrogate:Surrogate",
}
"""Module in this room and class of every strategy, loaded when one is asked for."""


def build(settings: Any, problem: Any) -> Strategy:
    """The strategy that the settings describe, for a `strategy.problem.Problem`."""
    if isinstance(settings, ImportedStrategy):
        made: Strategy = imported.load(settings.kind)(problem, settings)
        return made
    module, _, name = _MADE_BY[settings.kind].partition(":")
    found: Strategy = getattr(import_module(f"evonas.strategy.{module}"), name)(problem, settings)
    return found
