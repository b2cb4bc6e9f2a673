"""A network's model card: Markdown with a header in YAML, as model hubs read it, written beside every export.

Names, labels and reasons may come from others: they are escaped, and stand as text wherever the card is shown."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evonas import yaml
from evonas.report import drawing, views
from evonas.report.tables import number, plain

if TYPE_CHECKING:
    from evonas.encoding.plan import Plan
    from evonas.results import Row, Run

HEAD = "<!-- model card by evonas -->"
"""The line that tells a card of evonas from a README that someone wrote."""

_LINEAGE = 40
"""Steps of a lineage that are told; of more the first and the last."""


def text(run: Run, id: int, to: str, files: Sequence[str]) -> str:
    """The card of an individual exported as `to` into `files`: what it is, its values, how to load it, data,
    architecture, lineage, and how to get it again."""
    (row,) = run.rows([id])
    plan = run.plan(id)
    parts = [
        _header(run, row), HEAD, f"# {words(run.name)}, individual {id}", _about(run, plan), *_results(run, row),
        "## How to load it", *_usage(run, plan, to, files), "## Data", *_data(run), "## Architecture",
        fence(drawing.text(plan)), "## Lineage", *_lineage(run, id), "## How to get it again", *_again(run, row, to),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def words(value: object) -> str:
    """Text of others as Markdown text: on one line, without marks that Markdown or HTML would act upon."""
    line = " ".join(plain(value).split())
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", html.escape(line, quote=False))


def fence(content: str, language: str = "") -> str:
    """Lines as they are, in a fence that is longer than any within them."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", content)), default=0)
    bars = "`" * max(3, longest + 1)
    lines = "\n".join(plain(line) for line in content.rstrip("\n").split("\n"))
    return f"{bars}{language}\n{lines}\n{bars}"


def _header(run: Run, row: Row) -> str:
    kind, shape = run.about["task"]["kind"], run.about["task"]["input"]
    task = {
        "classification": "image-classification" if len(shape) == 3 else "tabular-classification",
        "regression": "tabular-regression",
        "control": "reinforcement-learning",
        "tabular": "image-classification",
    }[kind]
    entries: dict[str, Any] = {
        "library_name": "pytorch",
        "pipeline_tag": task,
        "tags": ["evonas", "neural-architecture-search", "neuroevolution", run.recipe.strategy.kind],
        "datasets": [run.recipe.task.kind],
        "metrics": [one.name for one in run.objectives],
    }
    # JSON is YAML, and its quotes let no value end the header
    lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _about(run: Run, plan: Plan) -> str:
    task = run.about["task"]
    shape, outputs = "×".join(map(str, task["input"])), task["outputs"]
    return (
        f"A network for {words(run.recipe.task.kind)} ({task['kind']}, input {shape}, {outputs} outputs) with "
        f"{plan.params:,} parameters and {plan.flops:,} FLOPs per input, found by evonas {run.about['evonas']}: "
        f"strategy {words(run.recipe.strategy.kind)} over {words(run.recipe.encoding.kind)} genomes."
    )


def _results(run: Run, row: Row) -> list[str]:
    columns = ["objective", "better", "in the search", *(["on the test set"] if row.tested else [])]
    lines = []
    for one in run.objectives:
        unit, better = f" ({words(one.unit)})" if one.unit else "", "lower" if one.direction == "min" else "higher"
        known = [row.values.get(one.name), *([row.tested.get(one.name)] if row.tested else [])]
        lines.append([words(one.name) + unit, better, *("" if v is None else f"{v:,.6g}" for v in known)])
    if row.tested:
        note = "The test set was touched once, after a last training; the weights are of that training."
    else:
        note = (
            "These values chose the network and so flatter it; the test set was never touched. "
            f"`evonas test {run.name} --ids {row.id}` measures it there, once."
        )
    played = run.about["task"]["kind"] == "control"
    return ["## Results", _table(columns, lines), *([] if played and not row.tested else [note])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ------------------------------------------------------------------------------------------------------ how to load

_LOADERS = {
    "module": "from {module} import load\n\nnetwork = load()  # a torch.nn.Module in evaluation mode\n"
    "{call}  # inputs as they are in the data",
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
    '(output,) = session.run(["output"], {{"input": inputs}})  # float32, (batch, {shape})',
    "torch-export": 'import torch\n\nnetwork = torch.export.load("{file}").module()\n'
    "output = network(inputs)  # float32, (batch, {shape})",
    "genome": "# a recipe that begins with this genome\nencoding: {{initial: [{file}]}}",
}
_STEPS = {
    "onnx": 'import numpy\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
    "state = numpy.zeros((batch, {size}), numpy.float32)  # at the beginning of an episode\n"
    'output, state = session.run(None, {{"input": inputs, "state": state}})',
    "torch-export": 'import torch\n\nnetwork = torch.export.load("{file}").module()\n'
    "state = torch.zeros(batch, {size})  # at the beginning of an episode\noutput, state = network(inputs, state)",
}
_NOTES = {
    "module": "Needs torch and safetensors, not evonas. Loading runs no code but the Python file beside this card.",
    "onnx": "The file was run by onnxruntime and compared with the network, where onnxruntime was installed.",
    "torch-export": "The file was loaded and compared with the network before it was written. It holds plain tensors; "
    "`torch.export.load` would unpickle what a stranger put into such a file, so load only files you trust.",
    "genome": "The genome is the architecture as data, for layer graphs without weights; `evonas genome {file}` shows "
    "it, and `encoding.initial` begins a search with it.",
}


def _usage(run: Run, plan: Plan, to: str, files: Sequence[str]) -> list[str]:
    graph = plan.steps[-1]
    recurrent = graph.op == "graph" and not graph.settings["feed_forward"]
    classes = run.about["task"]["kind"] == "classification" and run.about["task"]["outputs"] > 1
    values: Mapping[str, object] = {
        "file": files[0],
        "module": files[0].removesuffix(".py"),
        "shape": ", ".join(map(str, plan.steps[0].shape)),
        "call": "classes, probabilities = network.predict(inputs)" if classes else "values = network.predict(inputs)",
        "size": _state_size(plan) if recurrent else 0,
    }
    written = _STEPS.get(to, _LOADERS[to]) if recurrent else _LOADERS[to]
    language = "yaml" if to == "genome" else "python"
    meaning = [] if to == "genome" else [_meaning(run, classes)]
    return [fence(written.format(**values), language), *meaning, _NOTES[to].format(**values)]


def _state_size(plan: Plan) -> int:
    from evonas.phenotype import network

    return int(network.build(plan).get_submodule("graph").size)  # type: ignore[arg-type]


def _meaning(run: Run, classes: bool) -> str:
    labels = run.about["task"]["labels"]
    if not classes:
        return "Inputs and outputs are in the data's own units: the numbers that normalise are part of the file."
    telling = labels and list(labels) != [str(i) for i in range(len(labels))]
    named = f" {', '.join(f'{i}: {words(one)}' for i, one in enumerate(labels[:50]))}." if telling else ""
    return f"Inputs are as in the data, normalised inside; outputs are one logit per class.{named}"


# ------------------------------------------------------------------------------------------------- where it is from


def _data(run: Run) -> list[str]:
    task = run.about["task"]
    sizes = ", ".join(f"{count:,} {words(part)}" for part, count in task["sizes"].items())
    settings = yaml.dump(run.recipe.task.model_dump(mode="json", exclude_none=True))
    rows = f"Rows: {sizes}, divided by seed {run.recipe.seed}. " if sizes else ""
    kept = "No row of the test set was seen by the search. " if sizes else ""
    return [f"{rows}{kept}Fingerprint of the data: `{task['fingerprint']}`.", fence(settings, "yaml")]


def _lineage(run: Run, id: int) -> list[str]:
    found = views.lineage(run, id)
    trunk = found.trunk
    first = run.objectives[0]
    told = []
    for one in trunk:
        edits = "; ".join(map(str, one.edits)) or (f"child of {_ids(one.parents)}" if one.parents else "a founder")
        value = f", {first.name} {number(one.values[first.name])}" if first.name in one.values else ""
        birth = f", at birth {number(one.cost['birth_error'])}" if "birth_error" in one.cost else ""
        told.append(f"{one.id}. generation {one.born}{words(value)}{birth}: {words(edits)}")
    if len(told) > _LINEAGE:
        half = _LINEAGE // 2
        told = [*told[:half], f"... {len(told) - _LINEAGE} more ...", *told[-half:]]
    missing = " Older ancestors were not kept." if found.unknown else ""
    head = f"{len(found.members) + found.hidden - 1} ancestors are known; this is the line of first parents."
    # a list of its own numbers, the ids, which Markdown would count anew
    return [head + missing, "\n".join(f"- {line.replace('.', ':', 1)}" for line in told)]


def _ids(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))


def _again(run: Run, row: Row, to: str) -> list[str]:
    about = run.about
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "torch", "numpy", "deap") if about.get(name))
    commands = f"evonas run recipe.yaml --name {run.name}\nevonas export {run.name} {row.id} --to {to}"
    dumped = yaml.dump(run.recipe.model_dump(mode="json"))
    machine = f"{about.get('platform', '?')}, {about.get('cores', '?')} cores"
    return [
        f"The recipe below names every random stream by seed {run.recipe.seed}; the same recipe, data and versions on "
        "the same kind of processor give the same networks under the same ids.",
        fence(commands, "sh"),
        f"- versions: evonas {words(about['evonas'])}, {words(versions)}\n- machine: {words(machine)}\n"
        f"- started: {words(about.get('started', '?'))}\n- genome: `{plain(row.key)}`",
        f"<details><summary>recipe.yaml</summary>\n\n{fence(dumped, 'yaml')}\n\n</details>",
    ]
