"""Random numbers by counter: draw i of a stream is a pure function of its key and i, so that children are the same for
any number of threads, in any order, with or without compiled kernels.

`kernels/breeding.c` holds the same formulas; both round every operation to float64, so their results are equal bit for
bit. Hash: the finaliser of SplitMix64 (Steele, Lea and Flood 2014). Normal deviates: inversion by rational functions
(Wichura 1988, algorithm AS 241), tails cut at 6.7 standard deviations (1.4e-11 of the draws on each side)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evonas.core import seed_of

Words = NDArray[np.uint64]
Indices = NDArray[np.int64]
Reals = NDArray[np.float64]

STEP = np.uint64(0x9E3779B97F4A7C15)
LN2 = 0.6931471805599453
TAIL = 0.425
"""Distance from one half up to which the central rational function holds."""
FAR = 5.0
"""Square root of minus the logarithm of the smallest tail that is told apart."""

CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080),
    (5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867,
     5394.1960214247511077, 687.18700749205790830, 42.313330701600911252, 1.0),
)  # fmt: skip
OUTSIDE = (
    (7.74545014278341407640e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.148103976427480074590,
     0.689767334985100004550, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)  # fmt: skip
LOGARITHM = tuple(1.0 / power for power in range(23, 0, -2))
"""Series of the inverse hyperbolic tangent; with 12 terms the error is below the rounding."""


def key_of(seed: int, purpose: str) -> int:
    """The key of a stream, 64 bits."""
    return seed_of(seed, purpose)


def words(key: int, at: Indices) -> Words:
    """64 random bits for each index."""
    word = at.astype(np.uint64) * STEP + np.uint64(key)
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word


def uniforms(key: int, at: Indices) -> Reals:
    """Draws from (0, 1) for each index; neither end occurs."""
    return ((words(key, at) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def below(key: int, at: Indices, counts: Indices) -> Indices:
    """Draws from 0 .. counts-1 for each index; 0 where a count is 0."""
    return (uniforms(key, at) * counts).astype(np.int64)


def normals(key: int, at: Indices) -> Reals:
    """Standard normal draws for each index."""
    uniform = uniforms(key, at)
    offset = uniform - 0.5
    near = np.abs(offset) <= TAIL
    deviates = np.empty_like(uniform)
    middle = offset[near]
    deviates[near] = middle * _ratio(CENTRE, 0.180625 - middle * middle)
    side, tail = offset[~near], uniform[~near]
    distance = np.minimum(np.sqrt(-_logarithm(np.minimum(tail, 1.0 - tail))), FAR)
    deviates[~near] = np.where(side < 0.0, -1.0, 1.0) * _ratio(OUTSIDE, distance - 1.6)
    return deviates


def spread(key: int, at: Indices) -> Reals:
    """Draws from (-1, 1) for each index."""
    return 2.0 * uniforms(key, at) - 1.0


def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: Reals) -> Reals:
    return _polynomial(polynomials[0], x) / _polynomial(polynomials[1], x)


def _polynomial(coefficients: tuple[float, ...], x: Reals) -> Reals:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _logarithm(x: Reals) -> Reals:
    """Natural logarithm: NumPy's and the compiler's differ in the last bit, so neither is used."""
    fraction, exponent = np.frexp(x)
    ratio = (fraction - 1.0) / (fraction + 1.0)
    small = fraction < 0.7071067811865476
    doubled = fraction * 2.0
    ratio = np.where(small, (doubled - 1.0) / (doubled + 1.0), ratio)
    exponent = exponent - small
    return exponent * LN2 + 2.0 * ratio * _polynomial(LOGARITHM, ratio * ratio)
