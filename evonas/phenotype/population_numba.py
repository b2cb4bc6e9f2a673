"""Networks of packed programs where no C compiler is: the same designs, compiled by numba.

Many inputs: a tile of 64 inputs passes through one network at a time, its values staying in the nearest cache. One
input a step: networks are merged, so that equal activations of many networks stand side by side. Sums and activations
are written for 16 numbers at once, because numba's own loops over them neither vectorise nor compile quickly (measured:
2 to 15 million evaluations a second and 7 s). Exponentials and sines are polynomials; their error is below 3e-7."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from evonas.encoding.variation import ACTIVATIONS
from evonas.native import split
from evonas.phenotype.merged import merge

if TYPE_CHECKING:
    from evonas.phenotype.population import Programs

Floats = NDArray[np.float32]

LANES, TILE = 16, 64
CHUNK = 256
"""Networks whose nodes are merged for steps of one input: enough of them to fill groups of 16, their values (256 x 35
nodes: 36 kB) still near."""

_array: Any = make_array
_once: Any = cgutils.alloca_once


def _compiled(function: Callable[..., Any]) -> Any:
    # no nnan, ninf or reassoc: what is not a number must stay so, and range reductions must not be "simplified"
    return njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})(function)


def _written(function: Callable[..., Any]) -> Any:
    """A function that writes its own instructions."""
    return intrinsic(function)


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


# --------------------------------------------------------------------------------------------- 16 numbers at once


class _Lanes:
    """16 floats in the making: arithmetic on them writes instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: _Lanes | float) -> Any:
        return other.value if isinstance(other, _Lanes) else ir.Constant(_FLOATS, [float(np.float32(other))] * LANES)

    def _new(self, value: Any) -> _Lanes:
        return _Lanes(self.builder, value)

    def __add__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fadd(self.value, self._of(other)))

    def __sub__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fsub(self.value, self._of(other)))

    def __rsub__(self, other: float) -> _Lanes:
        return self._new(self.builder.fsub(self._of(other), self.value))

    def __mul__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fmul(self.value, self._of(other)))

    def __rtruediv__(self, other: float) -> _Lanes:
        return self._new(self.builder.fdiv(self._of(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def where(self, relation: str, limit: float, yes: _Lanes | float, no: _Lanes | float) -> _Lanes:
        """`yes` where this stands in that relation to `limit`, else `no`; no relation holds for NaN but `!=`."""
        test = self.builder.fcmp_unordered if relation == "!=" else self.builder.fcmp_ordered
        return self._new(self.builder.select(test(relation, self.value, self._of(limit)), self._of(yes), self._of(no)))

    def clamp(self, low: float, high: float) -> _Lanes:
        raised = self.where("<", low, low, self)
        return raised.where(">", high, high, raised)

    def abs(self) -> _Lanes:
        return self._bits(lambda builder, bits: builder.and_(bits, _whole(0x7FFFFFFF)))

    def _bits(self, change: Callable[[Any, Any], Any]) -> _Lanes:
        bits = change(self.builder, self.builder.bitcast(self.value, _INTS))
        return self._new(self.builder.bitcast(bits, _FLOATS))


def _whole(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _polynomial(x: _Lanes, *coefficients: float) -> _Lanes:
    value: _Lanes = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        value = value * x + c
    return value


ROUND = 12582912.0
"""1.5 * 2^23: adding it leaves the nearest integer in the low bits."""


def _exp(z: _Lanes) -> _Lanes:
    """Cephes' expf without its branches, for |z| < 87."""
    shifted = z * 1.442695041 + ROUND
    n = shifted - ROUND
    r = z - n * 0.693359375 - n * -2.12194440e-4
    p = _polynomial(r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
    power = shifted._bits(lambda b, bits: b.add(b.shl(bits, _whole(23)), _whole(0x3F800000)))
    return (p * (r * r) + r + 1.0) * power


def _reciprocal(d: _Lanes) -> _Lanes:
    """1/d for 1 <= d < 1e30 by Newton steps from the exponent's complement: four times as fast as dividing."""
    r = d._bits(lambda builder, bits: builder.sub(_whole(0x7EF311C7), bits))
    for _ in range(3):
        r = r * (2.0 - d * r)
    return r


def _logistic(z: _Lanes) -> _Lanes:
    return _reciprocal(1.0 + _exp((-1.0 * z).clamp(-60, 60)))


def _sin(z: _Lanes) -> _Lanes:
    """Sine for |z| <= 60: reduced by multiples of pi, then a polynomial on +-pi/2."""
    shifted = z * 0.318309886 + ROUND
    n = shifted - ROUND
    r = z - n * 3.140625 - n * 9.67025756835937e-4 - n * 6.2771141529083e-7
    s = r * r
    value = _polynomial(s, 2.60831598097865e-06, -0.000198106907191686, 0.00833307858556509, -0.166666597127914)
    value = value * s * r + r
    flip = z.builder.shl(z.builder.bitcast(shifted.value, _INTS), _whole(31))
    return value._bits(lambda b, bits: b.xor(bits, flip))


def _log(z: _Lanes) -> _Lanes:
    """Cephes' logf for normal z > 0, infinity and NaN as they are."""
    b = z.builder
    # the exponent counts from 1/sqrt(2), so that the rest lies about 1
    bits = b.sub(b.bitcast(z.value, _INTS), _whole(0x3F3504F3))
    exponent = z._new(b.sitofp(b.ashr(bits, _whole(23)), _FLOATS))
    rest = b.add(b.and_(bits, _whole(0x007FFFFF)), _whole(0x3F3504F3))
    m = z._new(b.bitcast(rest, _FLOATS)) - 1.0
    s = m * m
    p = _polynomial(
        m, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    value = p * m * s + exponent * -2.12194440e-4 - s * 0.5 + m + exponent * 0.693359375
    return z.where("<", 3e38, value, z)


def _elu(z: _Lanes, scale: float = 1.0, alpha: float = 1.0) -> _Lanes:
    return scale * z.where(">", 0, z, alpha * (_exp(z.clamp(-87, 0)) - 1.0))


def _softplus(z: _Lanes) -> _Lanes:
    z = (5.0 * z).clamp(-60, 60)
    return 0.2 * (z.where(">", 0, z, 0.0) + _log(1.0 + _exp(0.0 - z.abs())))


FORMULAS: dict[str, Callable[[_Lanes], _Lanes]] = {
    "sigmoid": lambda z: _logistic(5.0 * z),
    "tanh": lambda z: 2.0 * _logistic(5.0 * z) - 1.0,
    "sin": lambda z: _sin((5.0 * z).clamp(-60, 60)),
    "gauss": lambda z: _exp(-5.0 * (z.clamp(-3.4, 3.4) * z.clamp(-3.4, 3.4))),
    "relu": lambda z: z.where("<=", 0, 0.0, z),
    "elu": _elu,
    "lelu": lambda z: z.where(">", 0, z, 0.005 * z),
    "selu": lambda z: _elu(z, 1.0507009873554805, 1.6732632423543772),
    "softplus": _softplus,
    "identity": lambda z: z,
    "clamped": lambda z: z.clamp(-1, 1),
    "inv": lambda z: z.where("==", 0, 0.0, 1.0 / z),
    "log": lambda z: _log(z.where("<", 1e-7, 1e-7, z)),
    "exp": lambda z: _exp(z.clamp(-60, 60)),
    "abs": lambda z: z.abs(),
    "hat": lambda z: (1.0 - z.abs()).clamp(0, 3e38),
    "square": lambda z: z * z,
    "cube": lambda z: z * z * z,
}
"""neat-python 2.0's activations, with its scaling."""


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = _array(kind)(context, builder, array).data
    return builder.gep(data, [at])


def _load(builder: Any, pointer: Any, vector: int) -> _Lanes:
    at = builder.bitcast(builder.gep(pointer, [ir.Constant(ir.IntType(64), vector * LANES)]), _FLOATS.as_pointer())
    return _Lanes(builder, builder.load(at, align=4))


def _store(value: _Lanes, pointer: Any, vector: int) -> None:
    b = value.builder
    at = b.bitcast(b.gep(pointer, [ir.Constant(ir.IntType(64), vector * LANES)]), _FLOATS.as_pointer())
    b.store(value.value, at, align=4)


@_written
def _lanes_activate(typing: Any, kind: Any, values: Any, first: Any, last: Any) -> Any:
    """values[first:last] = activation number `kind` of them, in groups of 16."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code, array, begin, end = arguments
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(end.type, LANES)) as (at, _):
            pointer = _pointer(context, builder, signature.args[1], array, at)
            value = _load(builder, pointer, 0)
            after = builder.append_basic_block("activated")
            choice = builder.switch(code, after)
            for number, name in enumerate(ACTIVATIONS):
                if name != "identity":
                    block = builder.append_basic_block(name)
                    choice.add_case(ir.Constant(code.type, number), block)
                    builder.position_at_end(block)
                    _store(FORMULAS[name](value), pointer, 0)
                    builder.branch(after)
            builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(types.int64, values, types.int64, types.int64), emit


@_written
def _lanes_sum(
    typing: Any, slots: Any, weights: Any, first: Any, last: Any, values: Any, groups: Any, made: Any, at: Any,
    response: Any, bias: Any,
) -> Any:  # fmt: skip
    """made[at : at + width] = bias + response * the weighted sum over links first .. last, held in registers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        slot, weight, begin, end, value, _, target, place, scale, shift = arguments
        kinds = signature.args
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        totals = [_once(builder, _FLOATS) for _ in range(groups.count)]
        for total in totals:
            builder.store(zero, total)
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(end.type, 1)) as (link, _):
            source = builder.load(_pointer(context, builder, kinds[0], slot, link))
            row = builder.mul(builder.sext(source, ir.IntType(64)), ir.Constant(ir.IntType(64), groups.count * LANES))
            pointer = _pointer(context, builder, kinds[4], value, row)
            w = _spread(builder, builder.load(_pointer(context, builder, kinds[1], weight, link)))
            for number, total in enumerate(totals):
                builder.store((_Lanes(builder, builder.load(total)) + w * _load(builder, pointer, number)).value, total)
        pointer = _pointer(context, builder, kinds[6], target, place)
        scales, shifts = _spread(builder, scale), _spread(builder, shift)
        for number, total in enumerate(totals):
            _store(scales * _Lanes(builder, builder.load(total)) + shifts, pointer, number)
        return context.get_dummy_value()

    arguments = (slots, weights, types.int64, types.int64, values, groups, made, types.int64, response, bias)
    return types.void(*arguments), emit


@_written
def _lanes_copy(typing: Any, source: Any, first: Any, groups: Any, made: Any, at: Any) -> Any:
    """made[at : at + width] = source[first : first + width]."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        old = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        new = _pointer(context, builder, signature.args[3], arguments[3], arguments[4])
        for number in range(groups.count):
            _store(_load(builder, old, number), new, number)
        return context.get_dummy_value()

    return types.void(source, types.int64, groups, made, types.int64), emit


def _spread(builder: Any, value: Any) -> _Lanes:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return _Lanes(builder, builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), _whole(0)))


# ------------------------------------------------------------------------------------------------- aggregations


@_compiled
def _reduce(kind: int, terms: Floats, count: int) -> Any:
    """neat-python's aggregation number `kind` of terms[:count], sums too."""
    if count == 0:
        return np.float32(1 if kind == 1 else 0)
    if kind == 5:
        for k in range(1, count):
            one, at = terms[k], k
            while at > 0 and terms[at - 1] > one:
                terms[at] = terms[at - 1]
                at -= 1
            terms[at] = one
        return np.float32(0.5) * (terms[(count - 1) // 2] + terms[count // 2])
    whole = terms[0]
    for k in range(1, count):
        one = terms[k]
        if kind == 1:
            whole *= one
        elif kind == 0 or kind == 6:
            whole += one
        elif (one < whole) if kind == 2 else (one > whole) if kind == 3 else abs(one) > abs(whole):
            whole = one
    return whole / np.float32(count) if kind == 6 else whole


@_compiled
def _aggregate(
    kind: int, slots: Any, weights: Any, first: int, last: int, values: Floats, width: int, made: Floats, at: int,
    scratch: Floats, response: Any, bias: Any,
) -> None:  # fmt: skip
    """made[at : at + width] = bias + response * the aggregation of links first .. last."""
    for b in range(width):
        for k in range(first, last):
            scratch[k - first] = weights[k] * values[slots[k] * width + b]
        made[at + b] = bias + response * _reduce(kind, scratch, last - first)


# -------------------------------------------------------------------------------------------------- many inputs


@_compiled
def _tiles(
    first: int, last: int, groups: Any, slots: int, shape: Any, x: Floats, nodes: Any, links: Any, out: Floats
) -> None:
    """Networks first .. last on all inputs; x (1 or networks, steps, inputs, padded batch) and out (networks, steps,
    batch, outputs) are flat. A tile has 16 inputs per group; the length of `groups` is known when this is compiled."""
    node_offsets, level, activation, aggregation, bias, response, output_slot = nodes
    link_offsets, slot, weight = links
    feed_forward, shared, steps, inputs, padded, batch, outputs = shape
    width = LANES * len(groups)
    room = slots * width
    now = np.zeros(room, dtype=np.float32)
    before = now if feed_forward else np.zeros(room, dtype=np.float32)
    scratch = np.empty(len(weight) + 1, dtype=np.float32)
    for g in range(first, last):
        begin, end = node_offsets[g], node_offsets[g + 1]
        for tile in range(0, batch, width):
            if not feed_forward:
                for k in range(room):
                    now[k] = 0
            for step in range(steps):
                now, before = before, now
                for i in range(inputs):
                    at = (((0 if shared else g) * steps + step) * inputs + i) * padded + tile
                    _lanes_copy(x, at, groups, before, i * width)
                j = begin
                while j < end:
                    same = j
                    while same < end and level[same] == level[j] and activation[same] == activation[j]:
                        at, a, z = (inputs + same - begin) * width, link_offsets[same], link_offsets[same + 1]
                        r, c = response[same], bias[same]
                        if aggregation[same] == 0:
                            _lanes_sum(slot, weight, a, z, before, groups, now, at, r, c)
                        else:
                            _aggregate(aggregation[same], slot, weight, a, z, before, width, now, at, scratch, r, c)
                        same += 1
                    _lanes_activate(activation[j], now, (inputs + j - begin) * width, (inputs + same - begin) * width)
                    j = same
                for b in range(min(width, batch - tile)):
                    for o in range(outputs):
                        at = ((g * steps + step) * batch + tile + b) * outputs + o
                        out[at] = now[output_slot[g * outputs + o] * width + b]


def activate(programs: Programs, x: Floats, threads: int = 1) -> Floats:
    """Outputs of feed-forward networks, x (batch, inputs) or (n, batch, inputs) -> (n, batch, outputs)."""
    return sequence(programs, x[..., None, :, :], threads)[:, 0]


def sequence(programs: Programs, x: Floats, threads: int = 1) -> Floats:
    """Outputs at every step, the state of recurrent networks starting at 0; x (steps, batch, inputs) or
    (n, steps, batch, inputs) -> (n, steps, batch, outputs)."""
    p = programs
    x = x if x.ndim == 4 else x[None]
    batch = x.shape[2]
    width = LANES if batch <= LANES else TILE
    tiled = np.zeros((*x.shape[:2], p.inputs, -(-batch // width) * width), dtype=np.float32)
    tiled[..., :batch] = np.swapaxes(x, 2, 3)
    out = np.empty((p.n, x.shape[1], batch, p.outputs), dtype=np.float32)
    shape = (p.feed_forward, len(x) == 1, x.shape[1], p.inputs, tiled.shape[3], batch, p.outputs)
    groups = (0,) * (width // LANES)
    nodes = (p.node_offsets, p.level, p.activation, p.aggregation, p.bias, p.response, p.output_slot)
    links = (p.link_offsets, p.link_slot, p.link_weight)

    def work(first: int, last: int) -> None:
        _tiles(first, last, groups, p.slots, shape, tiled.reshape(-1), nodes, links, out.reshape(-1))

    split(work, p.n, threads)
    return out


# --------------------------------------------------------------------------------------------- one input per network


@_compiled
def _merged(first: int, last: int, runs: Any, graph: Any, before: Floats, now: Floats, scratch: Floats) -> None:
    """Runs first .. last of merged networks, from the values `before` to `now`; nodes start at row `base`."""
    base, start, source, weight, bias, response = graph
    for run in range(first, last):
        activation, aggregation, begin, end = runs[run, 1], runs[run, 2], runs[run, 3], runs[run, 4]
        for k in range(begin, end):
            total = np.float32(0)
            if aggregation == 0:
                for link in range(start[k], start[k + 1]):
                    total += weight[link] * before[source[link]]
            else:
                for link in range(start[k], start[k + 1]):
                    scratch[end - begin + link - start[k]] = weight[link] * before[source[link]]
                total = _reduce(aggregation, scratch[end - begin :], start[k + 1] - start[k])
            scratch[k - begin] = response[k] * total + bias[k]
        # on a copy, because groups of 16 reach beyond the run, into nodes that another thread may be computing
        _lanes_activate(activation, scratch, 0, end - begin)
        for k in range(begin, end):
            now[base + k] = scratch[k - begin]


class Stepper:
    """Networks that take one input each per call and keep their state; each has `copies` rows, side by side."""

    def __init__(self, programs: Programs, copies: int = 1, activations: int = 1, threads: int = 1) -> None:
        self._graph = graph = merge(programs, copies, CHUNK)
        self._copies, self._activations, self._threads = copies, activations, threads
        genes = programs.link_weight[graph.links], programs.bias[graph.order], programs.response[graph.order]
        self._arrays = graph.base, graph.start, graph.source, *genes
        self._now = np.zeros(graph.rows, dtype=np.float32)
        self._before = self._now if programs.feed_forward else np.zeros_like(self._now)
        longest = int((graph.runs[:, 4] - graph.runs[:, 3]).max(initial=0))
        self._room = longest + LANES + int(np.diff(graph.start).max(initial=0))
        self._made = np.empty(graph.outputs.shape, dtype=np.float32)

    def step(self, x: Floats) -> Floats:
        """Outputs of the next step, x (rows, inputs) -> (rows, outputs); the next call overwrites the result."""
        for _ in range(self._activations):
            self._now, self._before = self._before, self._now
            self._before[: self._graph.base] = x.reshape(-1)
            split(self._chunks, len(self._graph.chunks) - 1, self._threads, grain=2)
        return np.take(self._now, self._graph.outputs, out=self._made, mode="clip")

    def _chunks(self, first: int, last: int) -> None:
        begin, end = int(self._graph.chunks[first]), int(self._graph.chunks[last])
        scratch = np.empty(self._room, dtype=np.float32)
        _merged(begin, end, self._graph.runs, self._arrays, self._before, self._now, scratch)

    def reset(self, rows: NDArray[np.int64]) -> None:
        """State 0 again for these rows."""
        self._now[self._graph.nodes_of(rows)] = 0
