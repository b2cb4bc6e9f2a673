"""The search strategies: who is born next. One file each; add one by writing its settings here and its file."""

from __future__ import annotations

from typing import Any, Literal

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
    crossover: float = Field(default=0.0, ge=0, le=1)
    """Probability that a child has a second parent, drawn like the first; it is mutated all the same."""
    continued: float = Field(default=0.0, ge=0, le=1)
    """Probability that a proposal is no child but a member of the population as it is, which is trained on from its
    weights (estimator.inherit): where trainings are short, small networks need more of them."""
    limit: int | None = Field(default=None, ge=1)
    """Most individuals of a population, the least crowded of the front; null for the whole front."""
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


class ImportedStrategy(Imported):
    """A user's own strategy, called with the problem and these settings; it has the faces `ask` and `tell`."""

    population: int = Field(default=20, ge=1, le=1_000_000)
    """Individuals of a generation, for what it asks of that."""
    generations: int = Field(default=10, ge=1, le=10_000_000)
    """Generations in all: how often it is asked and told."""
    speciation: SpeciationSettings | None = Field(default_factory=SpeciationSettings)
    """Division of the population into species; null switches it off."""


TABLE: dict[str, type[Settings]] = {
    "hill_climbing": HillClimbingSettings,
    "lemonade": LemonadeSettings,
    "neat": NeatStrategySettings,
    "nsga2": Nsga2Settings,
    "random": RandomSettings,
    "regularized": RegularizedSettings,
}


def build(settings: Any, problem: Any) -> Strategy:
    """The strategy that the settings describe, for a `strategy.problem.Problem`."""
    if isinstance(settings, Nsga2Settings):
        from evonas.strategy.nsga2 import Nsga2

        return Nsga2(problem, settings)
    if isinstance(settings, RandomSettings):
        from evonas.strategy.random import RandomSearch

        return RandomSearch(problem, settings)
    if isinstance(settings, NeatStrategySettings):
        from evonas.strategy.neat import Neat

        return Neat(problem, settings)
    if isinstance(settings, LemonadeSettings):
        from evonas.strategy.lemonade import Lemonade

        return Lemonade(problem, settings)
    if isinstance(settings, RegularizedSettings):
        from evonas.strategy.regularized import Regularized

        return Regularized(problem, settings)
    if isinstance(settings, HillClimbingSettings):
        from evonas.strategy.hill_climbing import HillClimbing

        return HillClimbing(problem, settings)
    if isinstance(settings, ImportedStrategy):
        made: Strategy = imported.load(settings.kind)(problem, settings)
        return made
    raise TypeError(f"no strategy for {type(settings).__name__}")
