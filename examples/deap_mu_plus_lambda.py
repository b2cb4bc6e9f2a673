"""DEAP's own `algorithms.eaMuPlusLambda` on evonas individuals: networks for handwritten digits, error against size.

    python examples/deap_mu_plus_lambda.py            # under a minute on one core

evonas supplies genomes, mutation, crossover, decoding and training; DEAP runs the evolution."""

from __future__ import annotations

from deap import algorithms, tools

from evonas import encoding, estimate, objective, recipe
from evonas.core import Job, lend_global_streams, seed_of, stream
from evonas.marks import MarkBook
from evonas.operators import Creature, fitness_class, toolbox
from evonas.task import build as build_task

SEED = 1
RECIPE = recipe.read(
    {
        "task": {"kind": "digits"},
        "objectives": ["error", "params"],
        "encoding": {"channels": [4, 8, 16, 32], "bounds": {"params": "20k", "flops": "500k"}},
        "estimator": {"epochs": 4, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}},
    }
)


def main() -> None:
    objectives = objective.resolve(RECIPE.objectives)
    shape = build_task(RECIPE.task).shape()
    space = encoding.build(RECIPE.encoding, shape.input, shape.outputs)
    estimator = estimate.build(RECIPE.model_dump(mode="json"))
    fitness = fitness_class(objectives)
    book = MarkBook()

    def evaluate(creature: Creature) -> tuple[float, ...]:
        """Trains the network; a failed one gets the worst error, since DEAP would rank NaN first."""
        evaluate.count += 1
        job = Job(evaluate.count, seed_of(SEED, "estimate", evaluate.count), space.to_json(creature.genome))
        result = estimator.estimate(job).estimate
        params = float(space.decode(creature.genome).params)
        return (result.values["error"] if result.status == "ok" else 1.0, params)

    evaluate.count = 0
    box = toolbox(space, book, select=tools.selNSGA2)
    box.register("evaluate", evaluate)

    rng = stream(SEED, "founders")
    population = [Creature(space.random(rng, book), fitness()) for _ in range(12)]
    front = tools.ParetoFront(similar=lambda a, b: a.genome.key == b.genome.key)
    with lend_global_streams(SEED, "deap"):
        algorithms.eaMuPlusLambda(
            population, box, mu=12, lambda_=12, cxpb=0.3, mutpb=0.6, ngen=5, halloffame=front, verbose=True
        )
    print(f"\n{'error':>8} {'params':>8}  network")
    for creature in front:
        error, params = creature.fitness.values
        print(f"{error:8.3f} {params:8.0f}  {space.summary(creature.genome)}")


if __name__ == "__main__":
    main()
