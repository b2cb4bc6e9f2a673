/* Vectors of float32 as wide as the processor's registers, and activations on tiles of them, in GCC's and clang's portable
   vector extension. Wider vectors than the registers would be spilled: 15 times slower.

   A tile is `width` vectors (a compile-time constant once inlined), so that as many independent chains run side by side.
   exp and sin are within 2e-7 of the exact result (relative and absolute). */

#ifndef EVONAS_VECTORS_H
#define EVONAS_VECTORS_H

#include <stdint.h>
#include <string.h>
#include "network.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float V __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t I __attribute__((vector_size(4 * LANES), may_alias));

#define EACH for (int m = 0; m < width; m++)

INLINE V broadcast(float value) { return (V){0} + value; }

INLINE V choose(I yes, V a, V b) { return (V)((yes & (I)a) | (~yes & (I)b)); }

/* What vector extensions have no word for, in the processor's own where that is a single instruction: by GCC's names, which
   need no header, since reading <immintrin.h> takes half a second. */
#ifdef __has_builtin
#if __has_builtin(__builtin_ia32_gathersiv8sf)
#define GCC_NAMES
#endif
#endif
#if LANES > 4 && !defined(GCC_NAMES)
#include <immintrin.h>
#endif

#if LANES == 16 && defined(GCC_NAMES)
INLINE V minv(V a, V b) { return (V)__builtin_ia32_minps512_mask(a, b, a, -1, 4); }
INLINE V maxv(V a, V b) { return (V)__builtin_ia32_maxps512_mask(a, b, a, -1, 4); }
INLINE V gatherv(const float *values, I at) { return (V)__builtin_ia32_gathersiv16sf((V){0}, values, at, -1, 4); }
#elif LANES == 16
INLINE V minv(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE V maxv(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V gatherv(const float *values, I at) { return (V)_mm512_i32gather_ps((__m512i)at, values, 4); }
#elif LANES == 8 && defined(GCC_NAMES)
INLINE V minv(V a, V b) { return (V)__builtin_ia32_minps256(a, b); }
INLINE V maxv(V a, V b) { return (V)__builtin_ia32_maxps256(a, b); }
INLINE V gatherv(const float *values, I at) { return (V)__builtin_ia32_gathersiv8sf((V){0}, values, at, (V)((I){0} - 1), 4); }
#elif LANES == 8
INLINE V minv(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE V maxv(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE V gatherv(const float *values, I at) { return (V)_mm256_i32gather_ps(values, (__m256i)at, 4); }
#else
INLINE V minv(V a, V b) { return choose(a < b, a, b); }
INLINE V maxv(V a, V b) { return choose(a > b, a, b); }
INLINE V gatherv(const float *values, I at) { return (V){values[at[0]], values[at[1]], values[at[2]], values[at[3]]}; }
#endif

INLINE V clampv(V z, float limit) { return maxv(minv(z, broadcast(limit)), broadcast(-limit)); }

/* Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits. */
#define ROUNDING 12582912.0f
#define LOG2E 1.44269504f
#define INVERSE_PI 0.318309886f

/* 2^t for |t| <= 126: 2^n 2^f with |f| <= 1/2, a least-squares polynomial. */
INLINE V exp2v(V t)
{
    const V bits = t + ROUNDING;
    const V f = t - (bits - ROUNDING);
    V q = f * 1.321867248e-03f + 9.671697938e-03f;
    q = q * f + 5.550892952e-02f;
    q = q * f + 2.402223800e-01f;
    q = q * f + 6.931468559e-01f;
    q = q * f + 1.0f;
    return (V)((I)q + ((I)bits << 23));
}

/* 1/d for 1 <= d < 1e30: a guess from the exponent's complement, off by e <= 0.051, and the geometric series in e to e^5. A
   division takes 16 cycles of the one port that has it, this 3 of two. */
INLINE V reciprocalv(V d)
{
    V r = (V)(0x7EF30000 - (I)d);
    const V e = 1.0f - d * r;
    const V e2 = e * e;
    r = r + r * e;
    return r + r * (e2 * e2 + e2);
}

/* 1 / (1 + exp(-5 z)), clamped as neat-python's; tanh(2.5 z) is twice that less 1. */
INLINE V logisticv(V z) { return reciprocalv(exp2v(clampv(z * (-5.0f * LOG2E), 60.0f * LOG2E)) + 1.0f); }

/* exp(z) for |z| <= 87: the rounding of z log2(e) is made good, which the others do not need. */
INLINE V expv(V z)
{
    const V t = z * LOG2E;
    const V n = t + ROUNDING - ROUNDING;
    return exp2v(t) * (1.0f + (z - n * 0.693359375f + n * 2.12194440e-4f - (t - n) * 0.693147181f));
}

/* sin(5 z), clamped as neat-python's: sin(pi t) = (-1)^n sin(pi f) with |f| <= 1/2. */
INLINE V sin5v(V z)
{
    const V t = clampv(z * (5.0f * INVERSE_PI), 60.0f * INVERSE_PI);
    const V bits = t + ROUNDING;
    const V f = t - (bits - ROUNDING);
    const V s = f * f;
    V q = s * 7.721838615e-02f - 5.980441939e-01f;
    q = q * s + 2.550031194e+00f;
    q = q * s - 5.167706866e+00f;
    q = q * s + 3.141592580e+00f;
    return (V)((I)(q * f) ^ ((I)bits << 31));
}

/* exp(-5 z^2), clamped as neat-python's. */
INLINE V gaussv(V z) { return exp2v(maxv(z * z * (-5.0f * LOG2E), broadcast(-57.8f * LOG2E))); }

/* exp(z) - 1 where z <= 0; what it says elsewhere is not used. */
INLINE V fallingv(V z)
{
    return expv(maxv(minv(z, broadcast(0.0f)), broadcast(-87.0f))) - 1.0f;
}

INLINE V absv(V z) { return (V)((I)z & 0x7fffffff); }

/* Those whose logarithm keeps them in scalar code; one copy for all widths. */
static __attribute__((noinline, noclone)) void activate_scalars(int kind, float *z, int64_t count)
{
    for (int64_t i = 0; i < count; i++) z[i] = activate1(kind, z[i]);
}

/* z = activation(z) for a whole tile. */
INLINE void activate_tile(int kind, V *z, const int width)
{
    switch (kind) {
    case SIGMOID: EACH z[m] = logisticv(z[m]); break;
    case TANH: EACH z[m] = 2.0f * logisticv(z[m]) - 1.0f; break;
    case SIN: EACH z[m] = sin5v(z[m]); break;
    case GAUSS: EACH z[m] = gaussv(z[m]); break;
    case RELU: EACH z[m] = maxv(z[m], broadcast(0.0f)); break;
    case ELU: EACH z[m] = choose(z[m] > 0.0f, z[m], fallingv(z[m])); break;
    case LELU: EACH z[m] = choose(z[m] > 0.0f, z[m], z[m] * 0.005f); break;
    case SELU: EACH z[m] = 1.05070098735548f * choose(z[m] > 0.0f, z[m], 1.67326324235438f * fallingv(z[m])); break;
    case CLAMPED: EACH z[m] = clampv(z[m], 1.0f); break;
    case INV: EACH z[m] = (V)((z[m] != 0.0f) & (I)(1.0f / z[m])); break;
    case EXP: EACH z[m] = expv(clampv(z[m], 60.0f)); break;
    case ABS: EACH z[m] = absv(z[m]); break;
    case HAT: EACH z[m] = maxv(1.0f - absv(z[m]), broadcast(0.0f)); break;
    case SQUARE: EACH z[m] = z[m] * z[m]; break;
    case CUBE: EACH z[m] = z[m] * z[m] * z[m]; break;
    case SOFTPLUS:
    case LOG: {
        V kept[64 / LANES];
        EACH kept[m] = z[m];
        activate_scalars(kind, (float *)kept, (int64_t)width * LANES);
        EACH z[m] = kept[m];
        break;
    }
    }
}

#endif
