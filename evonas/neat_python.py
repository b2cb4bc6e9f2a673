"""A neat-python configuration file (INI, versions 0.92 to 2.0) as an evonas recipe, with a note on every key that could
not be carried over; and a neat-python genome as one of evonas."""

from __future__ import annotations

import configparser
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evonas import limits
from evonas.core import DataError, RecipeError, nearest, valid_name
from evonas.encoding.population import FORMAT
from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS, NeatSettings
from evonas.strategy import NeatStrategySettings

__all__ = ["BrokenConfiguration", "convert", "genome_json"]

MAX_BYTES = limits.CONFIG_BYTES


class BrokenConfiguration(DataError):
    """A configuration file that cannot be read as one; `mistakes` holds all of them, one a line."""

    def __init__(self, path: Path, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(f"{path}: {mistake}" for mistake in mistakes)
        super().__init__("\n".join(self.mistakes))


class Said(NamedTuple):
    """A value of the recipe and the comment behind it, by default the key that it comes from."""

    value: Any
    comment: str = ""


Tree = dict[str, Any]
"""Nested sections of a recipe, their leaves `Said`; a leaf that is None is left out."""


def convert(path: str | Path) -> tuple[str, list[str]]:
    """The recipe as YAML text with comments, and notes: one for each key that is not carried over as it is, and why.

    The fitness function and the number of generations, which neat-python takes from the program, are to be filled in.
    Raises BrokenConfiguration with every mistake there is, RecipeError where the file cannot be read."""
    path = Path(path)
    file = _File(path, _parsed(path))
    tree = _recipe(file)
    file.tell_unused()
    if file.mistakes:
        raise BrokenConfiguration(path, file.mistakes)
    _check(path, tree)
    head = f"# Converted from neat-python's {_one_line(path.name)}. Words behind a value name the key it comes from.\n"
    return head + "\n".join(_lines(tree)) + "\n", file.notes


# ------------------------------------------------------------------------------------------------------- reading


def _parsed(path: Path) -> configparser.ConfigParser:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}; name a neat-python file") from None
    if len(content) > MAX_BYTES:
        raise BrokenConfiguration(path, [f"{len(content):,} bytes: a neat-python file is a few kilobytes of text"])
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BrokenConfiguration(path, [f"byte {error.start} is no UTF-8 text: is this an INI file?"]) from None
    except configparser.Error as error:
        raise BrokenConfiguration(path, _syntax(error)) from None
    if not any(parser.has_section(name) for name in ("NEAT", "DefaultGenome")):
        found = ", ".join(map(_one_line, parser.sections()[:5])) or "none"
        raise BrokenConfiguration(
            path, [f"no section [NEAT] or [DefaultGenome] (found: {found}): is it neat-python's?"]
        )
    return parser


def _syntax(error: configparser.Error) -> list[str]:
    """What is wrong with the text, line by line, each with its cure."""
    match error:
        case configparser.MissingSectionHeaderError():
            return [f"line {error.lineno}: {_one_line(error.line)!r} stands before any section: begin with [NEAT]"]
        case configparser.DuplicateOptionError():
            return [f"line {error.lineno}: {error.option} is given twice in [{_one_line(error.section)}]: remove one"]
        case configparser.DuplicateSectionError():
            return [f"line {error.lineno}: section [{_one_line(error.section)}] is given twice: join the two"]
        case configparser.ParsingError():
            lines = [(number, _one_line(line).replace("\\n", "")) for number, line in error.errors]
            return [f"line {number}: {line} is no `key = value`: write one" for number, line in lines]
    return [_one_line(str(error))]


_OPTIONAL = (
    "seed", "_termination", "_hidden", "initial_connection", "single_structural_mutation", "_surer", "_type", "_add",
    "_default", "elitism", "survival_threshold", "_func", "max_stagnation", "min_species_size",
)  # fmt: skip
"""Endings of the keys that neat-python lets be missing, or that change nothing where they are."""


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())[:80]


@dataclass
class _File:
    """The file while it is read: what was asked for, what is wrong, what is not carried over."""

    path: Path
    parser: configparser.ConfigParser
    asked: dict[str, set[str]] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def text(self, section: str, key: str) -> str | None:
        """The value as text, None where it is missing."""
        self.asked.setdefault(section, set()).add(key)
        found = self.parser.get(section, key, fallback=None)
        if found is None and not key.endswith(_OPTIONAL):
            self.missing.setdefault(section, []).append(key)
        return found

    def number(
        self, section: str, key: str, low: float = -math.inf, high: float = math.inf, whole: bool = False,
        needed: bool = False,
    ) -> Any:  # fmt: skip
        """A number within limits, or None where it is missing or wrong, which is noted."""
        text = self.text(section, key)
        if text is None:
            if needed:
                self.missing[section].remove(key)
                self.mistakes.append(f"[{section}] {key} is missing: add it, a whole number of at least {low:g}")
            return None
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or not math.isfinite(value):
            kind = "a whole number" if whole else "a number"
            span = f" from {low} to {high}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
            self.mistakes.append(f"[{section}] {key} = {_one_line(text)!r} is not allowed: write {kind}{span}")
            return None
        return value

    def rate(self, section: str, key: str) -> float | None:
        """A probability; neat-python lets it exceed 1, which means always."""
        value = self.number(section, key, low=0)
        if value is not None and value > 1:
            self.notes.append(f"[{section}] {key} = {value:g}: a probability above 1 means always, written as 1")
            return 1.0
        return None if value is None else float(value)

    def flag(self, section: str, key: str) -> bool | None:
        text = self.text(section, key)
        if text is None:
            return None
        known = configparser.ConfigParser.BOOLEAN_STATES
        if text.lower() not in known:
            self.mistakes.append(f"[{section}] {key} = {_one_line(text)!r} is not allowed: write True or False")
            return None
        return known[text.lower()]

    def word(self, section: str, key: str, known: Collection[str]) -> str | None:
        """One of the known words, of which the first is what is meant where it is missing."""
        text = self.text(section, key)
        if text is None:
            return None
        if text.lower() not in known:
            self.mistakes.append(f"[{section}] {key} = {_one_line(text)!r} is not known; {nearest(text, list(known))}")
            return None
        return text.lower()

    def tell_unused(self) -> None:
        """Notes the keys and sections that nothing was made of, and those that are not there."""
        for section, keys in self.missing.items():
            self.notes.append(f"[{section}] {', '.join(keys)}: not given; evonas' defaults stand")
        for section in self.parser.sections():
            if section not in self.asked:
                self.notes.append(
                    f"[{_one_line(section)}]: no section of neat-python; {nearest(section, list(self.asked))}"
                )
                continue
            known = sorted(self.asked[section])
            for key in self.parser.options(section):
                if key not in known:
                    close = nearest(key, known).split("? known")[0]
                    hint = f"{close}?" if close.startswith("did you") else "it is no key of neat-python 0.92 to 2.0"
                    self.notes.append(f"[{section}] {_one_line(key)}: not known and left out; {hint}")


# ------------------------------------------------------------------------------------------------- what means what

GENOME, SPECIES, STAGNATION, REPRODUCTION = (
    "DefaultGenome", "DefaultSpeciesSet", "DefaultStagnation", "DefaultReproduction",
)  # fmt: skip


def _recipe(file: _File) -> Tree:
    return {
        "version": Said(1),
        "name": Said(_name(file.path)),
        "seed": Said(file.number("NEAT", "seed", 0, 2**63 - 1, whole=True) or 0, "names every random stream"),
        "task": {
            "kind": Said("fitness", "or a task of evonas, such as xor, double-pole, gymnasium"),
            "function": Said(
                "fitness.py:evaluate", "your eval_genomes: evaluate(networks) returns an array of fitnesses"
            ),
            "inputs": Said(file.number(GENOME, "num_inputs", 1, 100_000, True, True), "num_inputs"),
            "outputs": Said(file.number(GENOME, "num_outputs", 1, 100_000, True, True), "num_outputs"),
        },
        "encoding": _encoding(file),
        "objectives": Said(["fitness"]),
        "strategy": _strategy(file),
        "estimator": {"kind": Said("population")},
    }


def _name(path: Path) -> str:
    """A run's name after the file's."""
    name = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in path.stem).strip("-")[:64]
    try:
        return valid_name(name)
    except RecipeError:
        return "neat"


def _encoding(file: _File) -> Tree:
    feed_forward = file.flag(GENOME, "feed_forward")
    tree: Tree = {"kind": Said("neat"), "feed_forward": _said(feed_forward, "feed_forward")}
    tree |= _initial(file, feed_forward is not False)
    for name in ("weight", "bias", "response"):
        tree[name] = _value_gene(file, name)
    tree["mutate_weights"] = Said(1.0, "neat-python mutates each gene by its own rates alone")
    tree["activation"] = _choice_gene(file, "activation", ACTIVATIONS)
    tree["aggregation"] = _choice_gene(file, "aggregation", AGGREGATIONS)
    tree["structure"] = _structure(file)
    disjoint = file.number(GENOME, "compatibility_disjoint_coefficient", 0)
    tree["distance"] = {
        "formula": Said("normalised", "neat-python's"),
        "disjoint": _said(disjoint, "compatibility_disjoint_coefficient"),
        "weight": _said(file.number(GENOME, "compatibility_weight_coefficient", 0), "compatibility_weight_coefficient"),
    }
    _tell_inert(file)
    return tree


def _said(value: Any, comment: str) -> Said | None:
    return None if value is None else Said(value, comment)


_CONNECTIONS = {
    "unconnected": "none", "fs_neat": "single", "fs_neat_nohidden": "single", "fs_neat_hidden": "single",
    "full": "full", "full_nodirect": "full", "full_direct": "full",
    "partial": "fraction", "partial_nodirect": "fraction", "partial_direct": "fraction",
}  # fmt: skip


def _initial(file: _File, feed_forward: bool) -> Tree:
    """Hidden nodes and links of the first genomes."""
    hidden = file.number(GENOME, "num_hidden", 0, 100_000, whole=True) or 0
    tree: Tree = {"initial_hidden": Said([hidden, hidden], "num_hidden") if hidden else None}
    text = file.text(GENOME, "initial_connection") or "unconnected"
    kind, *rest = text.lower().split()
    if kind not in _CONNECTIONS:
        hint = nearest(kind, list(_CONNECTIONS))
        file.mistakes.append(f"[{GENOME}] initial_connection = {_one_line(text)!r} is not known; {hint}")
        return tree
    tree["initial_connection"] = Said(_CONNECTIONS[kind], f"initial_connection = {_one_line(text)}")
    if kind.startswith("partial"):
        try:
            share = float(rest[0]) if len(rest) == 1 else math.nan
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            file.mistakes.append(f"[{GENOME}] initial_connection = {_one_line(text)!r}: write a share, `{kind} 0.5`")
        else:
            tree["initial_fraction"] = Said(share, "of the links")
    where = f"[{GENOME}] initial_connection = {_one_line(text)}"
    if hidden and kind in ("full", "full_nodirect", "partial", "partial_nodirect"):
        file.notes.append(f"{where}: evonas links inputs to outputs directly as well, besides through the hidden nodes")
    if hidden and kind == "fs_neat_hidden":
        file.notes.append(f"{where}: evonas links the chosen input to the outputs, not to the hidden nodes")
    if not feed_forward and kind.startswith(("full", "partial")):
        file.notes.append(f"{where}: first genomes have no links from a node to itself here; mutation adds them")
    return tree


def _value_gene(file: _File, name: str) -> Tree:
    """The settings of weight, bias or response."""

    def number(key: str, low: float = -math.inf) -> float | None:
        value: float | None = file.number(GENOME, f"{name}_{key}", low)
        return value

    low, high, mean, spread = number("min_value"), number("max_value"), number("init_mean"), number("init_stdev", 0)
    kind = file.word(GENOME, f"{name}_init_type", ("gaussian", "gauss", "normal", "uniform")) or "gaussian"
    mutate, replace = file.rate(GENOME, f"{name}_mutate_rate"), file.rate(GENOME, f"{name}_replace_rate")
    power = number("mutate_power", 0)
    if low is not None and low == high:
        return {
            "mean": Said(low, f"{name}_min_value = {name}_max_value: it never changes"),
            "deviation": Said(0.0), "min": Said(low - 1), "max": Said(low + 1), "mutate": Said(0.0),
            "replace": Said(0.0), "draw": Said("gauss"), "perturb": Said("gauss"),
        }  # fmt: skip
    if low is not None and high is not None and low > high:
        file.mistakes.append(f"[{GENOME}] {name}_min_value {low:g} is above {name}_max_value {high:g}: exchange them")
        return {}
    if mean is not None:
        within = min(max(mean, -math.inf if low is None else low), math.inf if high is None else high)
        if within != mean:
            file.notes.append(
                f"[{GENOME}] {name}_init_mean = {mean:g}: outside the range of values, written as {within:g}"
            )
        mean = within
    uniform = kind == "uniform"
    return {
        "mean": _said(mean, f"{name}_init_mean"),
        "deviation": None if spread is None else Said(
            2 * spread if uniform else spread, f"{'twice ' if uniform else ''}{name}_init_stdev"),
        "draw": Said("uniform" if uniform else "gauss", f"{name}_init_type"),
        "min": _said(low, f"{name}_min_value"),
        "max": _said(high, f"{name}_max_value"),
        "mutate": _said(mutate, f"{name}_mutate_rate"),
        "replace": _said(replace, f"{name}_replace_rate"),
        "power": _said(power, f"{name}_mutate_power"),
        "perturb": Said("gauss", "as neat-python"),
    }  # fmt: skip


def _choice_gene(file: _File, name: str, known: Sequence[str]) -> Tree:
    """The settings of activation or aggregation; functions of the user's own are left out."""
    default = (file.text(GENOME, f"{name}_default") or "random").strip()
    options = list(dict.fromkeys((file.text(GENOME, f"{name}_options") or "").replace(",", " ").split()))
    for option in options:
        if option not in known:
            where = f"[{GENOME}] {name}_options: {_one_line(option)!r}"
            file.notes.append(f"{where} is not among evonas' {name}s and left out; {nearest(option, known)}")
    kept = [option for option in options if option in known]
    if default.lower() in ("random", "none"):
        default = "random" if kept else ""
    elif default not in known:
        other = kept[0] if kept else known[0]
        file.notes.append(f"[{GENOME}] {name}_default = {_one_line(default)!r} is not known, written as {other}")
        default = other
    if default not in ("", "random", *kept):
        kept.insert(0, default)
    return {
        "default": _said(default or None, f"{name}_default"),
        "options": _said(kept or None, f"{name}_options"),
        "mutate": _said(file.rate(GENOME, f"{name}_mutate_rate"), f"{name}_mutate_rate"),
    }


def _structure(file: _File) -> Tree:
    single = file.flag(GENOME, "single_structural_mutation")
    surer = file.word(
        GENOME, "structural_mutation_surer", ("default", "true", "false", "1", "yes", "on", "0", "no", "off")
    )
    if surer in ("true", "1", "yes", "on") or (surer == "default" and single):
        file.notes.append(
            f"[{GENOME}] structural_mutation_surer: not carried over; a link that exists is enabled instead here, but "
            "a genome without links gets none in place of a node"
        )
    toggle = file.rate(GENOME, "enabled_mutate_rate")
    if toggle:
        file.notes.append(
            f"[{GENOME}] enabled_mutate_rate = {toggle:g}: neat-python draws so for every link, evonas toggles at most "
            f"one link of a child, written as structure.toggle: {toggle:g}"
        )
    for key in ("enabled_rate_to_true_add", "enabled_rate_to_false_add"):
        if file.rate(GENOME, key):
            file.notes.append(f"[{GENOME}] {key}: not carried over; evonas toggles both ways at one rate")
    default = file.word(
        GENOME, "enabled_default", ("true", "1", "yes", "on", "false", "0", "no", "off", "random", "none")
    )
    if default not in (None, "true", "1", "yes", "on"):
        file.notes.append(f"[{GENOME}] enabled_default = {default}: not carried over; new links are enabled here")
    return {
        "add_node": _said(file.rate(GENOME, "node_add_prob"), "node_add_prob"),
        "add_link": _said(file.rate(GENOME, "conn_add_prob"), "conn_add_prob"),
        "remove_node": _said(file.rate(GENOME, "node_delete_prob"), "node_delete_prob"),
        "remove_link": _said(file.rate(GENOME, "conn_delete_prob"), "conn_delete_prob"),
        "toggle": Said(toggle, "enabled_mutate_rate, per child") if toggle else None,
        "single": _said(single, "single_structural_mutation"),
    }


_TIME = tuple(
    f"time_constant_{key}"
    for key in (
        "init_mean", "init_stdev", "init_type", "replace_rate", "mutate_rate", "mutate_power", "max_value", "min_value",
    )
)  # fmt: skip


def _tell_inert(file: _File) -> None:
    """Keys of continuous-time networks, which evonas does not have."""
    given = [key for key in _TIME if file.parser.has_option(GENOME, key)]
    file.asked.setdefault(GENOME, set()).update(_TIME)
    if given:
        file.notes.append(f"[{GENOME}] {', '.join(given)}: not carried over; evonas has no continuous-time networks")


def _strategy(file: _File) -> Tree:
    elitism = file.number(REPRODUCTION, "elitism", 0, whole=True)
    survival = file.number(REPRODUCTION, "survival_threshold", 0, 1)
    if survival == 0:
        file.notes.append(f"[{REPRODUCTION}] survival_threshold = 0: at least one must survive, written as 0.01")
        survival = 0.01
    reset = file.flag("NEAT", "reset_on_extinction")
    tree: Tree = {
        "kind": Said("neat"),
        "population": Said(file.number("NEAT", "pop_size", 2, 10_000_000, True, True), "pop_size"),
        "generations": Said(300, "neat-python takes it in Population.run(eval_genomes, 300)"),
        "goal": _goal(file),
        "speciation": {
            "threshold": _said(file.number(SPECIES, "compatibility_threshold", 1e-9), "compatibility_threshold"),
            "target": Said(None, "a fixed threshold; a number of species steers it"),
        },
        "survival": _said(survival, "survival_threshold"),
        "elitism": Said(elitism or 0, "elitism"),
        "elite_size": Said(0, "elites in species of any size"),
        "stagnation": _said(file.number(STAGNATION, "max_stagnation", 1, whole=True), "max_stagnation"),
        "species_elitism": Said(file.number(STAGNATION, "species_elitism", 0, whole=True) or 0, "species_elitism"),
        "population_stagnation": Said(None, "neat-python has none"),
        "mutate_only": Said(0.0, "every child has two parents, which may be the same"),
        "interspecies": Said(0.0, "neat-python mates within species"),
        "extinct": None if reset is None else Said("restart" if reset else "stop", "reset_on_extinction"),
    }
    judge = file.word(
        STAGNATION, "species_fitness_func", ("mean", "max", "min", "median", "sum", "stdev", "variance", "median2")
    )
    if judge not in (None, "max"):
        file.notes.append(
            f"[{STAGNATION}] species_fitness_func = {judge}: not carried over; a species improves with its best member"
        )
    smallest = file.number(REPRODUCTION, "min_species_size", 0, whole=True)
    if smallest is not None and smallest > 1:
        file.notes.append(
            f"[{REPRODUCTION}] min_species_size = {smallest}: not carried over; offspring follow shared fitness exactly"
        )
    return tree


def _goal(file: _File) -> Tree | None:
    criterion = file.word("NEAT", "fitness_criterion", ("max", "min", "mean", "median", "sum", "stdev"))
    threshold = file.number("NEAT", "fitness_threshold")
    if file.flag("NEAT", "no_fitness_termination"):
        if threshold is not None:
            file.notes.append("[NEAT] fitness_threshold: left out, since no_fitness_termination = True")
        return None
    if criterion not in (None, "max"):
        file.notes.append(
            f"[NEAT] fitness_criterion = {criterion}: not carried over; a run ends when one individual reaches the goal"
        )
    return None if threshold is None else {"fitness": Said(threshold, "fitness_threshold")}


# --------------------------------------------------------------------------------------------------------- writing


def _check(path: Path, tree: Tree) -> None:
    """Raises BrokenConfiguration where values do not fit together."""
    checks: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("encoding", NeatSettings.model_validate),
        ("strategy", NeatStrategySettings.model_validate),
    )
    mistakes = []
    for section, validate in checks:
        try:
            validate(_plain(tree[section]))
        except ValidationError as error:
            mistakes += [
                f"{'.'.join(map(str, (section, *one['loc'])))}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            ]
    if mistakes:
        raise BrokenConfiguration(path, mistakes)


def _plain(tree: Tree) -> dict[str, Any]:
    """The values alone."""
    return {
        key: leaf.value if isinstance(leaf, Said) else _plain(leaf) for key, leaf in tree.items() if leaf is not None
    }


def _lines(tree: Tree, depth: int = 0) -> list[str]:
    """YAML lines; top sections stand apart."""
    lines: list[str] = []
    apart = False
    for key, leaf in tree.items():
        if leaf is None or leaf == {}:
            continue
        if depth == 0 and (apart or not isinstance(leaf, Said)):
            lines.append("")
        apart = not isinstance(leaf, Said)
        start = f"{'  ' * depth}{key}:"
        if isinstance(leaf, Said):
            comment = f"  # {leaf.comment}" if leaf.comment not in ("", key) else ""
            lines.append(f"{start} {_scalar(leaf.value)}{comment}")
        else:
            lines += [start, *_lines(leaf, depth + 1)]
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    plain = isinstance(value, str) and value[:1].isalpha() and value not in ("null", "true", "false")
    return value if plain else json.dumps(value)


# --------------------------------------------------------------------------------------------------------- genomes


def genome_json(genome: Any, config: Any) -> dict[str, Any]:
    """A neat-python genome (`DefaultGenome`) as the JSON of a genome file, under its `Config`.

    Inputs -1, -2, ... become 0, 1, ...; outputs follow; hidden nodes and then links get the next marks in order, so
    that genomes converted one by one share marks of inputs and outputs alone."""
    wanted = config.genome_config
    inputs, outputs = len(wanted.input_keys), len(wanted.output_keys)
    hidden = sorted(key for key in genome.nodes if key not in wanted.output_keys)
    marks: Mapping[int, int] = {
        **{key: i for i, key in enumerate(wanted.input_keys)},
        **{key: inputs + i for i, key in enumerate(wanted.output_keys)},
        **{key: inputs + outputs + i for i, key in enumerate(hidden)},
    }
    nodes = sorted(
        [marks[key], gene.bias, gene.response, gene.activation, gene.aggregation] for key, gene in genome.nodes.items()
    )
    ends = sorted(
        (marks[key[0]], marks[key[1]], gene.weight, bool(gene.enabled)) for key, gene in genome.connections.items()
    )
    first = len(marks)
    links = [[first + i, *link] for i, link in enumerate(ends)]
    return {
        "encoding": "neat", "format": FORMAT, "inputs": inputs, "outputs": outputs,
        "feed_forward": bool(wanted.feed_forward), "nodes": nodes, "links": links,
    }  # fmt: skip
