/* One network of packed programs on one input vector, in plain C: what simulations call in their inner loops.

   How to use: take a `const Programs *` (Python passes `programs.address`) and give each network its own
   `values[programs->slots]`, zeroed at the start of an episode, and one `scratch[programs->slots]` per thread. Then

       network_step(programs, network, x, values, scratch, y);

   reads x[inputs] and writes y[outputs]. Feed-forward networks compute from the inputs alone; recurrent ones compute
   every node from the values of the step before, which stay in `values`. */

#ifndef EVONAS_NETWORK_H
#define EVONAS_NETWORK_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Same order as `Programs._FIELDS` in phenotype/population.py; every field has 8 bytes. */
typedef struct {
    int64_t networks, inputs, outputs, feed_forward, slots;
    const int64_t *node_offsets;  /* networks + 1 */
    const uint8_t *activation, *aggregation;
    const float *bias, *response;
    const int64_t *link_offsets;  /* nodes + 1, into the two arrays below */
    const int32_t *link_slot;     /* 0 .. inputs-1 an input, inputs + j the network's j-th node */
    const float *link_weight;
    const int32_t *output_slot;   /* networks x outputs */
} Programs;

_Static_assert(sizeof(void *) == 8, "fields are passed as 64-bit integers");

/* Codes as in encoding/population.py. */
enum { SIGMOID, TANH, SIN, GAUSS, RELU, ELU, LELU, SELU, SOFTPLUS, IDENTITY, CLAMPED, INV, LOG, EXP, ABS, HAT, SQUARE, CUBE };
enum { SUM, PRODUCT, MIN, MAX, MAXABS, MEDIAN, MEAN };

static inline float clamp1(float z, float limit) { return z < -limit ? -limit : z > limit ? limit : z; }

/* neat-python's activations, with its scaling. */
static inline float activate1(int kind, float z)
{
    switch (kind) {
    case SIGMOID: return 1.0f / (1.0f + expf(-clamp1(5.0f * z, 60.0f)));
    case TANH: return tanhf(clamp1(2.5f * z, 60.0f));
    case SIN: return sinf(clamp1(5.0f * z, 60.0f));
    case GAUSS: z = clamp1(z, 3.4f); return expf(-5.0f * z * z);
    case RELU: return z > 0.0f ? z : 0.0f;
    case ELU: return z > 0.0f ? z : expm1f(z);
    case LELU: return z > 0.0f ? z : 0.005f * z;
    case SELU: return 1.05070098735548f * (z > 0.0f ? z : 1.67326324235438f * expm1f(z));
    case SOFTPLUS: return 0.2f * log1pf(expf(clamp1(5.0f * z, 60.0f)));
    case CLAMPED: return clamp1(z, 1.0f);
    case INV: return z == 0.0f ? 0.0f : 1.0f / z;
    case LOG: return logf(z > 1e-7f ? z : 1e-7f);
    case EXP: return expf(clamp1(z, 60.0f));
    case ABS: return fabsf(z);
    case HAT: z = 1.0f - fabsf(z); return z > 0.0f ? z : 0.0f;
    case SQUARE: return z * z;
    case CUBE: return z * z * z;
    default: return z;
    }
}

/* The k-th smallest of the weighted values, by counting: in-degrees are small, and nothing needs to be stored. */
static inline float ranked1(int64_t k, const int32_t *slot, const float *weight, int64_t count, const float *values, int64_t stride)
{
    for (int64_t i = 0; i < count; i++) {
        const float one = weight[i] * values[slot[i] * stride];
        int64_t below = 0, equal = 0;
        for (int64_t j = 0; j < count; j++) {
            const float other = weight[j] * values[slot[j] * stride];
            below += other < one;
            equal += other == one;
        }
        if (below <= k && k < below + equal) return one;
    }
    return NAN;
}

/* neat-python's aggregations of weight * value; one value stands every `stride` floats. An empty product is 1, all else 0. */
static inline float aggregate1(int kind, const int32_t *slot, const float *weight, int64_t count, const float *values, int64_t stride)
{
    if (count == 0) return kind == PRODUCT ? 1.0f : 0.0f;
    if (kind == MEDIAN)
        return 0.5f * (ranked1((count - 1) / 2, slot, weight, count, values, stride) +
                       ranked1(count / 2, slot, weight, count, values, stride));
    float all = weight[0] * values[slot[0] * stride];
    for (int64_t i = 1; i < count; i++) {
        const float one = weight[i] * values[slot[i] * stride];
        switch (kind) {
        case PRODUCT: all *= one; break;
        case MIN: all = one < all ? one : all; break;
        case MAX: all = one > all ? one : all; break;
        case MAXABS: all = fabsf(one) > fabsf(all) ? one : all; break;
        default: all += one;
        }
    }
    return kind == MEAN ? all / (float)count : all;
}

static inline float node1(const Programs *p, int64_t node, const float *values)
{
    const int64_t first = p->link_offsets[node], last = p->link_offsets[node + 1];
    float total = 0.0f;
    if (p->aggregation[node] == SUM)
        for (int64_t i = first; i < last; i++) total += p->link_weight[i] * values[p->link_slot[i]];
    else
        total = aggregate1(p->aggregation[node], p->link_slot + first, p->link_weight + first, last - first, values, 1);
    return activate1(p->activation[node], p->bias[node] + p->response[node] * total);
}

/* The same with the inputs in `values` already. */
static inline void network_run(const Programs *p, int64_t network, float *values, float *scratch, float *y)
{
    const int64_t first = p->node_offsets[network], nodes = p->node_offsets[network + 1] - first;
    float *own = values + p->inputs;
    float *made = p->feed_forward ? own : scratch;
    for (int64_t j = 0; j < nodes; j++) made[j] = node1(p, first + j, values);
    if (made != own) memcpy(own, made, (size_t)nodes * sizeof(float));
    for (int64_t o = 0; o < p->outputs; o++) y[o] = values[p->output_slot[network * p->outputs + o]];
}

static inline void network_step(const Programs *p, int64_t network, const float *x, float *values, float *scratch, float *y)
{
    memcpy(values, x, (size_t)p->inputs * sizeof(float));
    network_run(p, network, values, scratch, y);
}

#endif
