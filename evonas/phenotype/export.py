"""A trained network as a Python file of its own: a plain torch module, its weights and its genome, without evonas.

The code is written from fixed templates over numbers and words that are checked here, so that no genome, label or name
from outside can put code into it."""

from __future__ import annotations

import inspect
import json
import keyword
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, get_args

from evonas.core import DataError, RecipeError, StorageError
from evonas.encoding.decode import group_count
from evonas.encoding.plan import Plan, Shape, Step, StepOp
from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS
from evonas.phenotype import deployed, graph, network, onnx
from evonas.phenotype.deployed import Deployment

__all__ = ["Card", "export_genome", "export_module", "export_onnx", "export_program", "module_files", "write"]


@dataclass(frozen=True, slots=True)
class Card:
    """What a network is for. `mean` and `std` normalise inputs, one number per channel or feature, or none where they
    come normalised; `target_mean` and `target_std` give a regression's outputs their own units, one number per output;
    `labels` names the classes; `facts` are lines for the file's heading; `genome` is the genome as JSON."""

    kind: Literal["classification", "regression", "control"] = "classification"
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    labels: Sequence[str] = ()
    target_mean: Sequence[float] = ()
    target_std: Sequence[float] = ()
    facts: Mapping[str, str | float] = field(default_factory=dict)
    genome: Any = None


def export_module(
    plan: Plan, weights: bytes, folder: str | os.PathLike[str], name: str, card: Card | None = None
) -> tuple[Path, ...]:
    """Writes the files of `module_files` into a folder, which is made where it is missing; returns their paths.

    Each file appears whole or not at all. Raises StorageError where the file system refuses."""
    files = module_files(plan, weights, name, card)
    return tuple(write(Path(folder) / file, content) for file, content in files.items())


def module_files(plan: Plan, weights: bytes, name: str, card: Card | None = None) -> dict[str, bytes]:
    """File names and contents: NAME.py with a module and `load()`, NAME.safetensors and, if known, NAME.genome.json.

    `weights` are safetensors bytes of the plan's network; an optimiser's state in them stays behind. `name` becomes a
    Python name (`lenet-5` -> `lenet_5`). Raises DataError for weights of another network or a plan or card with
    impossible values, RecipeError for a name without letters or digits."""
    card = card or Card()
    module = _module_name(name)
    files = {f"{module}.py": _source(plan, name, module, card).encode(), f"{module}.safetensors": network.bare(weights)}
    network.load(network.build(plan), network.from_bytes(weights))
    if card.genome is not None:
        files[f"{module}.genome.json"] = _genome_text(card.genome)
    return files


def export_onnx(plan: Plan, weights: bytes, path: str | os.PathLike[str], card: Card | None = None) -> Path:
    """Writes the network as an ONNX file for any number of inputs at a time; returns its path.

    It takes inputs as they are in the data and gives logits, or values in their own units: what `card` says of means
    and deviations is built in. A recurrent network takes and gives its state as well: `state` (batch, size), zeros at
    first, and `next_state`. Needs the extra evonas[onnx]. Raises RecipeError where it is missing, DataError for
    weights of another network, StorageError where the file system refuses."""
    return write(Path(path), onnx.content(_deployment(plan, weights, card or Card())))


def export_program(plan: Plan, weights: bytes, path: str | os.PathLike[str], card: Card | None = None) -> Path:
    """Writes the network as a torch.export program (.pt2) with the arguments and results of `export_onnx`; returns its
    path. It was loaded again and compared before it is written. DataError, StorageError as there."""
    return write(Path(path), deployed.program(_deployment(plan, weights, card or Card())))


def export_genome(genome: Any, path: str | os.PathLike[str]) -> Path:
    """Writes a genome's JSON, which a recipe's `encoding.initial` reads; returns its path. StorageError."""
    return write(Path(path), _genome_text(genome))


def _genome_text(genome: Any) -> bytes:
    return (json.dumps(genome, indent=1, allow_nan=False) + "\n").encode()


def _deployment(plan: Plan, weights: bytes, card: Card) -> Deployment:
    """The trained network between the data's own units. Raises DataError for what does not fit together."""
    _check(plan)
    _numbers(card, plan.steps[0].shape, plan.steps[-1].shape[0])
    built = network.build(plan)
    network.load(built, network.from_bytes(weights))
    return Deployment.of(built.eval(), card.mean, card.std, card.target_mean, card.target_std)


def write(path: Path, content: bytes) -> Path:
    """Writes a file that appears whole or not at all, in a folder that is made where it is missing. StorageError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None
    return path


# ---------------------------------------------------------------------------------------------------------- the file

_FILE = '''\
"""{heading}

Input (batch, {input}), output (batch, {outputs}): {meaning}.
{counts}
{facts}
    from {module} import load

    network = load()
    {usage}

Needs torch and safetensors. The weights lie beside this file, in {module}.safetensors.
The numbers in the names of layers are the historical marks of their genes.
"""

{imports}

{constants}
{parts}
class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
{buffers}{layers}

    def forward(self, x: Tensor) -> Tensor:
        """Normalised inputs (batch, {input}) -> {meaning} (batch, {outputs})."""
{forward}

{predict}

def load(weights: str | Path = Path(__file__).with_suffix(".safetensors"), device: str = "cpu") -> Network:
    """The trained network, in evaluation mode."""
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval().to(device)


if __name__ == "__main__":
    network = load()
    print("parameters:", sum(p.numel() for p in network.parameters() if p.requires_grad))
    print("output of an input of zeros:", network.predict(torch.zeros(1, *INPUT_SHAPE)))
'''

_PREDICT_CLASS = '''\
    @torch.no_grad()
    def predict(self, x) -> tuple[Tensor, Tensor]:
        """Inputs as they are in the data -> (classes, probabilities): (batch,) and (batch, {outputs})."""
        probabilities = self(self.normalise(x)).softmax(1)
        return probabilities.argmax(1), probabilities
'''

_PREDICT_VALUE = '''\
    @torch.no_grad()
    def predict(self, x) -> Tensor:
        """Inputs as they are in the data -> values in their own units, (batch, {outputs})."""
        return self(self.normalise(x)){denormalise}
'''

_STEP = '''\

    @torch.no_grad()
    def step(self, x) -> Tensor:
        """The next inputs of an episode, as they are in the data -> values, (batch, {outputs})."""
        return self.graph.step(self.normalise(x)){denormalise}

    def reset(self) -> None:
        """Begins a new episode, with a batch of any size."""
        self.graph.reset()
'''

_IMPORTS = """\
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
"""

_GRAPH_IMPORTS = """\
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
"""

_NORMALISE = '''\
    def normalise(self, x) -> Tensor:
        """A tensor or array of numbers as the network takes it."""
        x = torch.as_tensor(x, dtype=torch.float32, device=next(self.parameters()).device)
        return {normalised}

'''


def _source(plan: Plan, name: str, module: str, card: Card) -> str:
    """The Python file; everything put into the template is a checked number, a known word or a literal."""
    steps, shape, outputs = plan.steps, plan.steps[0].shape, plan.steps[-1].shape[0]
    _check(plan)
    direct = [step for step in steps if step.op == "graph"]
    # a single output is a number, not a choice among one class
    classes = card.kind == "classification" and outputs > 1
    constants: dict[str, Sequence[object]] = {"INPUT_SHAPE": shape, **_numbers(card, shape, outputs)}
    if card.labels:
        constants["LABELS"] = [str(label) for label in card.labels]
    normalised = "(x - self.mean) / self.std" if card.mean else "x"
    denormalise = " * self.target_std + self.target_mean" if card.target_mean else ""
    predict = _PREDICT_CLASS if classes else _PREDICT_VALUE
    if direct and not direct[-1].settings["feed_forward"]:
        predict += _STEP
    values = {"outputs": _int(outputs), "denormalise": denormalise, "normalised": normalised}
    return _FILE.format(
        heading=f"{_plain(name)}: a network for {_plain(card.kind)}, found by evonas.",
        input=", ".join(str(_int(extent)) for extent in shape),
        outputs=values["outputs"],
        meaning="logits" if classes else "standardised values" if card.target_mean else "values",
        counts=f"{_int(plan.params):,} parameters, {_int(plan.flops):,} FLOPs per input.",
        facts="".join(f"- {_plain(key)}: {_plain(value)}\n" for key, value in card.facts.items()),
        module=module,
        imports=(_GRAPH_IMPORTS if direct else _IMPORTS).rstrip(),
        parts="".join(map(_genes, direct)) + ("\n\n" + _parts() + "\n" if direct else ""),
        usage="classes, probabilities = network.predict(inputs)" if classes else "values = network.predict(inputs)",
        constants="".join(f"{key} = {_literal(value)}\n" for key, value in constants.items()),
        buffers=_buffers(constants, len(shape) > 1),
        layers=indent("\n".join(line for step in steps[1:] if (line := _layer(step, steps))), " " * 8),
        forward=indent("\n".join(_forward(plan)), " " * 8),
        predict=(_NORMALISE + predict).format(**values),
    )


def _literal(values: Sequence[object]) -> str:
    """Numbers or texts as a Python tuple, in rows where they are many."""
    words = [f"{value!r}," for value in values]
    line = " ".join(words)
    if len(line) <= 100:
        return f"({line})" if len(words) == 1 else f"({line.rstrip(',')})"
    rows = [""]
    for word in words:
        if rows[-1] and len(rows[-1]) + len(word) > 110:
            rows.append("")
        rows[-1] += f" {word}" if rows[-1] else word
    return "(\n" + indent("\n".join(rows), "    ") + "\n)"


def _buffers(constants: Mapping[str, Any], image: bool) -> str:
    """Lines that make tensors of the numbers which normalise; they move with the module, are no weights."""
    lines = []
    for key in ("MEAN", "STD", "TARGET_MEAN", "TARGET_STD"):
        if key in constants:
            view = ".view(-1, 1, 1)" if image and not key.startswith("TARGET") else ""
            lines.append(f'self.register_buffer("{key.lower()}", torch.tensor({key}){view}, persistent=False)\n')
    return indent("".join(lines), " " * 8)


# ------------------------------------------------------------------------------------------------------------ layers

_ACTIVATIONS = {
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU()",
    "elu": "nn.ELU()",
    "gelu": "nn.GELU()",
    "silu": "nn.SiLU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "relu6": "nn.ReLU6()",
    "hardswish": "nn.Hardswish()",
}


def _layer(step: Step, steps: Sequence[Step]) -> str:
    """The lines of `__init__` that make a step's module; none for what the forward pass writes out."""
    s = step.settings
    match step.op:
        case "conv":
            parts = {"conv": _conv(s, _int(s["channels"]), _int(s["groups"]), s["bias"]), **_tail(step)}
        case "separable":
            inner = _int(s["in_channels"])
            parts = {
                "depthwise": _conv(s, inner, inner, s["depthwise_norm"] == "none"),
                "depthwise_norm": _norm(s["depthwise_norm"], (inner, *step.shape[1:])),
                "depthwise_activation": _activation(s["activation"]),
                "pointwise": _call("nn.Conv2d", inner, _int(s["channels"]), 1, bias=(bool(s["bias"]), True)),
                **_tail(step),
            }
        case "linear":
            incoming = _int(steps[step.inputs[0]].shape[0])
            parts = {
                "linear": _call("nn.Linear", incoming, _int(s["channels"]), bias=(bool(s["bias"]), True)),
                **_tail(step),
            }
        case "identity":
            parts = _tail(step)
        case "max_pool" | "avg_pool":
            return f"self.{step.name} = {_pool(step)}"
        case "graph":
            return f"self.{step.name} = GraphNetwork({step.name.upper()})"
        case "dropout":
            return f"self.{step.name} = nn.Dropout({_float(s['rate'])!r})"
        case "gate":
            return f'self.{step.name} = nn.ParameterDict({{"scale": torch.ones(1)}})'
        case _:
            return ""
    return _sequence(step.name, {part: code for part, code in parts.items() if code})


def _sequence(name: str, parts: Mapping[str, str]) -> str:
    """A module of named parts, whose parameters are then called `layer5.conv.weight` as in the weights' file."""
    if not parts:
        return ""
    if list(parts) == ["activation"]:
        return f"self.{name} = {parts['activation']}"
    lines = [f"{part}={code}" for part, code in parts.items()]
    if len(lines) == 1:
        return f"self.{name} = nn.Sequential(OrderedDict({lines[0]}))"
    return f"self.{name} = nn.Sequential(OrderedDict(\n" + indent(",\n".join(lines), "    ") + ",\n))"


def _conv(settings: Mapping[str, Any], channels: int, groups: int, bias: bool) -> str:
    return _call(
        "nn.Conv2d", _int(settings["in_channels"]), channels, _pair(settings["kernel"]),
        stride=(_pair(settings["stride"]), "1"), padding=(_pair(settings["padding"]), "0"),
        dilation=(_pair(settings["dilation"]), "1"), groups=(groups, 1), bias=(bool(bias), True),
    )  # fmt: skip


def _pool(step: Step) -> str:
    s = step.settings
    kernel, padding = _pair(s["kernel"]), (_pair(s["padding"]), "0")
    options: dict[str, tuple[Any, Any]] = {"stride": (_pair(s["stride"]), kernel), "padding": padding,
                                           "ceil_mode": (bool(s["ceil"]), False)}  # fmt: skip
    if step.op == "max_pool":
        return _call("nn.MaxPool2d", kernel, **options)
    return _call("nn.AvgPool2d", kernel, **options, count_include_pad=(padding[0] == "0", True))


def _tail(step: Step) -> dict[str, str]:
    return {
        "norm": _norm(step.settings["norm"], step.shape),
        "activation": _activation(step.settings["activation"]),
    }


def _norm(norm: object, shape: Shape) -> str:
    channels = _int(shape[0])
    known = {
        "none": "",
        "batch": f"nn.BatchNorm{1 if len(shape) == 1 else 2}d({channels})",
        "group": f"nn.GroupNorm({group_count(channels)}, {channels})",
    }
    return _word(norm, known)


def _activation(activation: object) -> str:
    return _word(activation, {"linear": "", **_ACTIVATIONS})


def _call(function: str, *arguments: object, **options: tuple[Any, Any]) -> str:
    """A call with those options that differ from their default, each given as (value, default)."""
    named = [f"{name}={value}" for name, (value, default) in options.items() if value != default]
    return f"{function}({', '.join([*map(str, arguments), *named])})"


# ------------------------------------------------------------------------------------------------------------ graphs


_NAMES = {name: name for name in (*ACTIVATIONS, *AGGREGATIONS)}


def _genes(step: Step) -> str:
    """A direct genome's genes as the constant that its network is built from: a row per gene."""
    s = step.settings
    nodes = [
        (_int(mark), _float(bias), _float(response), _word(activation, _NAMES), _word(aggregation, _NAMES))
        for mark, bias, response, activation, aggregation in s["nodes"]
    ]
    links = [(*map(_int, ends), _float(weight), bool(enabled)) for *ends, weight, enabled in s["links"]]
    values = {"inputs": _int(s["inputs"]), "outputs": _int(s["outputs"]), "feed_forward": bool(s["feed_forward"]),
              "activations": _int(s.get("activations", 1))}  # fmt: skip
    lines = [f"    {key!r}: {value!r},\n" for key, value in values.items()]
    for key, fields, rows in (
        ("nodes", "mark, bias, response, activation, aggregation", nodes),
        ("links", "mark, source, target, weight, enabled", links),
    ):
        lines += [f"    # {fields}\n", f"    {key!r}: [\n", *(f"        {row!r},\n" for row in rows), "    ],\n"]
    # all texts are known words, so that only their quotes change
    table = "".join(lines).replace("'", '"')
    return f"{step.name.upper()}: dict[str, Any] = {{\n{table}}}\n"


def _parts() -> str:
    """The source of what a graph's network is made of."""
    return "\n\n".join(inspect.getsource(part) for part in graph.PARTS)


# ----------------------------------------------------------------------------------------------------------- forward


_INLINE = ("sum", "concat", "global_pool", "flatten")
"""Operations that are written into the call that takes their result, where nothing else does."""


def _forward(plan: Plan) -> list[str]:
    """The lines of `forward`: about one per layer, each tensor in a variable named after its gene (x5, e7), in cells
    after its step."""
    users: dict[int, list[int]] = {}
    for i, step in enumerate(plan.steps):
        for source in step.inputs:
            users.setdefault(source, []).append(i)
    values, held, lines = ["x"], {"x": 0}, []
    for i, step in enumerate(plan.steps[1:], start=1):
        value = _expression(step, [values[j] for j in step.inputs])
        if i == len(plan.steps) - 1:
            lines.append(f"return {value}")
        elif step.op in _INLINE and users.get(i) == [i + 1] and len(value) <= 70:
            values.append(value)
        else:
            variable = _variable(step)
            # another tensor of the same gene that is still to be used keeps the name
            if max(users.get(held.get(variable, -1), [-1])) > i:
                variable = f"{variable}_{i}"
            values.append(variable)
            held[variable] = i
            lines.append(f"{variable} = {value}")
    return lines


def _variable(step: Step) -> str:
    found = re.match(r"(layer|edge)([0-9]+)", step.name)
    return f"{'x' if found[1] == 'layer' else 'e'}{found[2]}" if found else step.name


def _expression(step: Step, inputs: Sequence[str]) -> str:
    # a sum that was written in place needs brackets before a method and within another sum
    closed = [f"({name})" if " + " in name else name for name in inputs]
    match step.op:
        case "sum":
            words = [f"{name} +" for name in closed[:-1]] + [closed[-1]]
            return _wrapped("(", words, ")") if len(inputs) > 12 else " ".join(words)
        case "concat":
            words = [f"{name}," for name in inputs]
            if len(inputs) > 12:
                return _wrapped("torch.cat((", words, "), dim=1)")
            return f"torch.cat(({' '.join(words).rstrip(',')}), dim=1)"
        case "global_pool":
            return f"{closed[0]}.mean((2, 3))"
        case "flatten":
            return f"{closed[0]}.flatten(1)"
        case "identity" if not any(_tail(step).values()):
            return inputs[0]
        case "gate":
            return f'{closed[0]} * self.{step.name}["scale"]'
        case "shift":
            down, right = map(_int, step.settings["by"])
            return f"nn.functional.pad({inputs[0]}, ({-right}, {right}, {-down}, {down}))"
        case "zero":
            return f"{closed[0]} * 0.0"
        case _:
            return f"self.{step.name}({inputs[0]})"


def _wrapped(start: str, words: Sequence[str], end: str) -> str:
    rows = [" ".join(words[i : i + 12]) for i in range(0, len(words), 12)]
    return "\n".join([start, *(f"    {row}" for row in rows), end])


# -------------------------------------------------------------------------------------------------- checked values


_NAME = re.compile(
    r"(?:layer|edge)[0-9]{1,16}(?:_merge|_reduce|_pool)?|flatten|graph"
    r"|stem|head|block[0-9]{1,4}(?:_[a-z0-9]+)?"
    r"|cell[0-9]{1,4}(?:_out|_(?:edge|node|in)[0-9]{1,16}(?:_[a-z0-9]+){0,6})"
)
"""Names of steps: those of layer graphs and direct genomes, of a skeleton, of cells."""


def _check(plan: Plan) -> None:
    """Raises DataError unless operations are known, names those of genes and every input is an earlier step."""
    for i, step in enumerate(plan.steps):
        if step.op not in get_args(StepOp):
            raise DataError(f"export: the operation {_plain(step.op)!r} is not known")
        if not _NAME.fullmatch(step.name):
            raise DataError(f"export: step {_plain(step.name)!r} is not named after a gene (layer5, edge7_pool)")
        if (i == 0) != (step.op == "input") or any(not 0 <= _int(j) < i for j in step.inputs):
            raise DataError(
                f"export: step {step.name} has the inputs {step.inputs}: a plan lists steps after their inputs"
            )
    if len({step.name for step in plan.steps}) < len(plan.steps):
        raise DataError("export: two steps of the plan have one name")


def _numbers(card: Card, shape: Shape, outputs: int) -> dict[str, tuple[float, ...]]:
    """The card's numbers by the names of their constants, those that are given. DataError for a wrong count."""
    numbers = {}
    for key, values, size in (
        ("MEAN", card.mean, shape[0]),
        ("STD", card.std, shape[0]),
        ("TARGET_MEAN", card.target_mean, outputs),
        ("TARGET_STD", card.target_std, outputs),
    ):
        if len(values) not in (0, size):
            raise DataError(f"export: {key.lower()} has {len(values)} numbers, expected {size} or none")
        if len(values):
            numbers[key] = tuple(map(_float, values))
    if ("MEAN" in numbers) != ("STD" in numbers) or ("TARGET_MEAN" in numbers) != ("TARGET_STD" in numbers):
        raise DataError("export: a mean and its standard deviation are given both or not at all")
    return numbers


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise DataError(f"export: {_plain(value)!r} stands where a count belongs")
    return int(value)


def _float(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"export: {_plain(value)!r} is no finite number")
    return number


def _pair(value: object) -> str:
    """(3, 3) as `3`, (3, 1) as `(3, 1)`."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise DataError(f"export: {_plain(value)!r} stands where a pair of counts belongs")
    first, second = map(_int, value)
    return str(first) if first == second else f"({first}, {second})"


def _word(word: object, known: Mapping[str, str]) -> str:
    if not isinstance(word, str) or word not in known:
        raise DataError(f"export: {_plain(word)!r} is not known; known: {', '.join(known)}")
    return known[word]


def _plain(value: object) -> str:
    """A value as one line of text that ends no string and starts no escape."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    words = "".join(sign if sign.isprintable() else " " for sign in text).replace("\\", "/").replace('"', "'")
    return " ".join(words.split())[:200]


def _module_name(name: str) -> str:
    """A name as a Python module's; one that would hide a module the file imports gets an ending."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:64]
    if not words:
        raise RecipeError(f"the name {name!r} has no letter or digit: give one such as 'digits-7'")
    if words[0].isdigit():
        return f"network_{words}"
    taken = keyword.iskeyword(words) or words.lower() in ("torch", "safetensors", "collections", "pathlib", "evonas")
    return f"{words}_network" if taken else words
