// flags: -ffp-contract=fast
/* Gradient steps of a whole population: every network goes through all its steps alone, so that its values, gradients and
   moments stay in the nearest caches and nothing is shared between threads.

   For each tile of inputs: forward, keeping each node's value and slope; the loss's gradient at the outputs; one sweep back
   over the links. A gradient stays a vector of partial sums until all tiles are through. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"
#include "vectors.h"

enum { MSE, CROSS_ENTROPY, BCE };

/* Same order as `_FIELDS` in phenotype/tuning.py; every field has 8 bytes. */
typedef struct {
    int64_t steps, tiles, tile, targets, loss, responses;
    int64_t update;            /* 0: only the losses */
    int64_t stride;            /* tiles from one step's data to the next's: 0 when every step takes all */
    const float *x;            /* (.., tiles, inputs, tile) */
    const float *y;            /* (.., tiles, targets, tile); a class is its number */
    const float *share;        /* (.., tiles, tile): 1 / inputs in the batch, 0 where a tile is filled up */
    const float *rates;        /* (steps, 3) rate, corrections of the first and second moment; correction 0: no moments */
    float *genes[3];           /* weights, biases, responses, as in Programs; tuned in place */
    float *kept[3];            /* genes with which the loss was finite */
    float *first[3], *second[3];
    double *losses;
    uint8_t *alive;
} Tuning;

typedef struct {
    V *values, *back, *slope, *total;  /* rows of a tile; values and back start with the inputs */
    V *sum[3];                         /* gradients as partial sums, gene by gene */
    float *terms;
} Desk;

#define BETA1 0.9f
#define BETA2 0.999f
#define EPSILON 1e-8f

/* --------------------------------------------------------------------------------------------------------- slopes */

INLINE V within(V z, float limit, V value) { return (V)((absv(z) < limit) & (I)value); }

/* slope = activation'(z), from z and y = activation(z). */
INLINE void slope_tile(int kind, const V *z, const V *y, V *slope, const int width)
{
    const V one = broadcast(1.0f), zero = broadcast(0.0f);
    switch (kind) {
    case SIGMOID: EACH slope[m] = 5.0f * y[m] * (1.0f - y[m]); break;
    case TANH: EACH slope[m] = 2.5f * (1.0f - y[m] * y[m]); break;
    case SIN: EACH slope[m] = within(z[m], 12.0f, 5.0f * sin5v(z[m] + 0.314159265f)); break;
    case GAUSS: EACH slope[m] = within(z[m], 3.4f, -10.0f * z[m] * y[m]); break;
    case RELU: EACH slope[m] = choose(z[m] > 0.0f, one, zero); break;
    case ELU: EACH slope[m] = choose(z[m] > 0.0f, one, y[m] + 1.0f); break;
    case LELU: EACH slope[m] = choose(z[m] > 0.0f, one, broadcast(0.005f)); break;
    case SELU: EACH slope[m] = choose(z[m] > 0.0f, broadcast(1.05070098735548f), y[m] + 1.75809934084738f); break;
    case SOFTPLUS: EACH slope[m] = within(z[m], 12.0f, logisticv(z[m])); break;
    case CLAMPED: EACH slope[m] = within(z[m], 1.0f, one); break;
    case INV: EACH slope[m] = -y[m] * y[m]; break;
    case LOG: EACH slope[m] = (V)((z[m] > 1e-7f) & (I)(1.0f / z[m])); break;
    case EXP: EACH slope[m] = within(z[m], 60.0f, y[m]); break;
    case ABS: EACH slope[m] = choose(z[m] > 0.0f, one, choose(z[m] < 0.0f, -one, zero)); break;
    case HAT: EACH slope[m] = within(z[m], 1.0f, choose(z[m] > 0.0f, -one, choose(z[m] < 0.0f, one, zero))); break;
    case SQUARE: EACH slope[m] = 2.0f * z[m]; break;
    case CUBE: EACH slope[m] = 3.0f * z[m] * z[m]; break;
    default: EACH slope[m] = one;
    }
}

/* What each term of an aggregation other than the sum gets of the gradient passed to it, in `terms`; first come of equals. */
static void shares(int kind, float *terms, int64_t count)
{
    if (kind == MEAN) {
        for (int64_t i = 0; i < count; i++) terms[i] = 1.0f / (float)count;
    } else if (kind == PRODUCT) {
        float *others = terms + count, before = 1.0f, after = 1.0f;
        for (int64_t i = 0; i < count; i++) { others[i] = before; before *= terms[i]; }
        for (int64_t i = count; i-- > 0;) { const float own = terms[i]; terms[i] = others[i] * after; after *= own; }
    } else if (kind == MEDIAN) {
        float *part = terms + count;
        for (int64_t i = 0; i < count; i++) {
            int64_t rank = 0;
            for (int64_t j = 0; j < count; j++) rank += terms[j] < terms[i] || (terms[j] == terms[i] && j < i);
            part[i] = 0.5f * (float)((rank == (count - 1) / 2) + (rank == count / 2));
        }
        memcpy(terms, part, (size_t)count * sizeof(float));
    } else {
        int64_t best = 0;
        for (int64_t i = 1; i < count; i++) {
            const float one = terms[i], old = terms[best];
            if (kind == MIN ? one < old : kind == MAX ? one > old : fabsf(one) > fabsf(old)) best = i;
        }
        for (int64_t i = 0; i < count; i++) terms[i] = i == best;
    }
}

/* -------------------------------------------------------------------------------------------------------- one tile */

INLINE void forward(const Programs *p, const Tuning *t, Desk *d, int64_t first, int64_t last, const int width)
{
    const float *weight = t->genes[0];
    for (int64_t node = first; node < last; node++) {
        const int64_t begin = p->link_offsets[node], end = p->link_offsets[node + 1], at = (node - first) * width;
        V z[64 / LANES], *y = d->values + p->inputs * width + at;
        EACH z[m] = broadcast(0.0f);
        if (p->aggregation[node] == SUM)
            for (int64_t i = begin; i < end; i++) {
                const V *value = d->values + p->link_slot[i] * width;
                EACH z[m] += weight[i] * value[m];
            }
        else
            for (int b = 0; b < width * LANES; b++)
                ((float *)z)[b] = aggregate1(p->aggregation[node], p->link_slot + begin, weight + begin, end - begin,
                                             (const float *)d->values + b, width * LANES);
        if (t->responses) EACH d->total[at + m] = z[m];
        EACH z[m] = t->genes[2][node] * z[m] + t->genes[1][node];
        EACH y[m] = z[m];
        activate_tile(p->activation[node], y, width);
        slope_tile(p->activation[node], z, y, d->slope + at, width);
    }
}

static void back_rare(const Programs *p, const Tuning *t, Desk *d, int64_t node, int64_t base, const V *got, const int width)
{
    const int64_t begin = p->link_offsets[node], count = p->link_offsets[node + 1] - begin;
    const int lanes = width * LANES;
    for (int b = 0; b < lanes; b++) {
        const float *value = (const float *)d->values + b;
        float *back = (float *)d->back + b;
        for (int64_t i = 0; i < count; i++)
            d->terms[i] = t->genes[0][begin + i] * value[p->link_slot[begin + i] * (int64_t)lanes];
        shares(p->aggregation[node], d->terms, count);
        for (int64_t i = 0; i < count; i++) {
            const float one = d->terms[i] * ((const float *)got)[b];
            const int64_t row = p->link_slot[begin + i] * (int64_t)lanes;
            ((float *)(d->sum[0] + begin - base + i))[b % LANES] += one * value[row];
            back[row] += one * t->genes[0][begin + i];
        }
    }
}

INLINE void backward(const Programs *p, const Tuning *t, Desk *d, int64_t first, int64_t last, const int width)
{
    const int64_t base = p->link_offsets[first];
    for (int64_t node = last; node-- > first;) {
        const int64_t begin = p->link_offsets[node], end = p->link_offsets[node + 1], at = (node - first) * width;
        V got[64 / LANES], all = broadcast(0.0f);
        EACH got[m] = d->back[p->inputs * width + at + m] * d->slope[at + m];
        EACH all += got[m];
        d->sum[1][node - first] += all;
        if (t->responses) EACH d->sum[2][node - first] += got[m] * d->total[at + m];
        EACH got[m] *= t->genes[2][node];
        if (p->aggregation[node] != SUM) {
            back_rare(p, t, d, node, base, got, width);
            continue;
        }
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = p->link_slot[i] * (int64_t)width;
            V part = got[0] * d->values[row];
            for (int m = 1; m < width; m++) part += got[m] * d->values[row + m];
            d->sum[0][i - base] += part;
            if (p->link_slot[i] >= p->inputs) EACH d->back[row + m] += t->genes[0][i] * got[m];
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------- losses */

/* The loss of a tile, and its gradient at the outputs into `back`. Cross-entropy is over the softmax of the outputs. */
static double loss_tile(const Programs *p, const Tuning *t, Desk *d, int64_t g, const float *y, const float *share, int lanes)
{
    const int32_t *slot = p->output_slot + g * p->outputs;
    const float *values = (const float *)d->values;
    float *back = (float *)d->back;
    double loss = 0.0;
    for (int b = 0; b < lanes; b++) {
        if (share[b] == 0.0f) continue;
        if (t->loss == CROSS_ENTROPY) {
            float most = -INFINITY, sum = 0.0f;
            for (int64_t o = 0; o < p->outputs; o++) most = fmaxf(most, values[slot[o] * (int64_t)lanes + b]);
            for (int64_t o = 0; o < p->outputs; o++) sum += d->terms[o] = expf(values[slot[o] * (int64_t)lanes + b] - most);
            for (int64_t o = 0; o < p->outputs; o++)
                back[slot[o] * (int64_t)lanes + b] = share[b] * (d->terms[o] / sum - (o == (int64_t)y[b]));
            loss += share[b] * (most + logf(sum) - values[slot[(int64_t)y[b]] * (int64_t)lanes + b]);
            continue;
        }
        const float part = share[b] / (float)p->outputs;
        for (int64_t o = 0; o < p->outputs; o++) {
            const int64_t at = slot[o] * (int64_t)lanes + b;
            const float made = values[at], wanted = y[o * lanes + b];
            if (t->loss == MSE) {
                back[at] = 2.0f * part * (made - wanted);
                loss += part * (made - wanted) * (made - wanted);
            } else {
                const float q = made < 1e-6f ? 1e-6f : made > 1.0f - 1e-6f ? 1.0f - 1e-6f : made;
                back[at] = part * (q - wanted) / (q * (1.0f - q));
                loss -= part * (wanted * logf(q) + (1.0f - wanted) * logf(1.0f - q));
            }
        }
    }
    return loss;
}

/* ----------------------------------------------------------------------------------------------------------- steps */

INLINE float across(const V *v)
{
    typedef float Q __attribute__((vector_size(16), may_alias));
    const Q *q = (const Q *)v;
    Q s = q[0];
    for (int k = 1; k < LANES / 4; k++) s += q[k];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

INLINE double gradient(const Programs *p, const Tuning *t, Desk *d, int64_t g, int64_t step, const int width)
{
    const int64_t first = p->node_offsets[g], last = p->node_offsets[g + 1], lanes = width * LANES;
    const int64_t links = p->link_offsets[last] - p->link_offsets[first];
    const size_t rows = (size_t)(p->inputs + last - first);
    double loss = 0.0;
    memset(d->sum[0], 0, (size_t)links * sizeof(V));
    memset(d->sum[1], 0, (size_t)(last - first) * sizeof(V));
    memset(d->sum[2], 0, (size_t)(last - first) * sizeof(V));
    for (int64_t tile = step * t->stride; tile < step * t->stride + t->tiles; tile++) {
        memcpy(d->values, t->x + tile * p->inputs * lanes, (size_t)(p->inputs * lanes) * sizeof(float));
        forward(p, t, d, first, last, width);
        memset(d->back, 0, rows * (size_t)width * sizeof(V));
        loss += loss_tile(p, t, d, g, t->y + tile * t->targets * lanes, t->share + tile * lanes, (int)lanes);
        if (t->update) backward(p, t, d, first, last, width);
    }
    return loss;
}

static void move(const Tuning *t, int kind, int64_t at, int64_t count, const V *sum, const float *rates)
{
    float *gene = t->genes[kind] + at, *first = t->first[kind] + at, *second = t->second[kind] + at;
    if (rates[1] == 0.0f) {
        for (int64_t i = 0; i < count; i++) gene[i] -= rates[0] * across(sum + i);
        return;
    }
    float *slope = (float *)sum; /* written behind what is read */
    for (int64_t i = 0; i < count; i++) slope[i] = across(sum + i);
    for (int64_t i = 0; i < count; i++) {
        first[i] = BETA1 * first[i] + (1.0f - BETA1) * slope[i];
        second[i] = BETA2 * second[i] + (1.0f - BETA2) * slope[i] * slope[i];
        gene[i] -= rates[0] * (first[i] * rates[1]) / (sqrtf(second[i] * rates[2]) + EPSILON);
    }
}

INLINE void tune(const Programs *p, const Tuning *t, Desk *d, int64_t g, const int width)
{
    const int64_t first = p->node_offsets[g], nodes = p->node_offsets[g + 1] - first, link = p->link_offsets[first];
    const int64_t at[3] = {link, first, first}, count[3] = {p->link_offsets[first + nodes] - link, nodes, nodes};
    const int kinds = t->responses ? 3 : 2;
    for (int64_t step = 0; step < t->steps && t->alive[g]; step++) {
        const double loss = gradient(p, t, d, g, step, width);
        t->alive[g] = isfinite(loss) != 0;
        t->losses[g] = t->alive[g] ? loss : NAN;
        for (int k = 0; k < kinds; k++) {
            float *gene = t->genes[k] + at[k], *kept = t->kept[k] + at[k];
            if (!t->alive[g]) memcpy(gene, kept, (size_t)count[k] * sizeof(float));
            else if (t->update) {
                memcpy(kept, gene, (size_t)count[k] * sizeof(float));
                move(t, k, at[k], count[k], d->sum[k], t->rates + 3 * step);
            }
        }
    }
}

static void *desk_open(Desk *d, const Programs *p, int width, int64_t first, int64_t last)
{
    int64_t links = p->outputs, degree = p->outputs;
    for (int64_t g = first; g < last; g++) {
        const int64_t a = p->node_offsets[g], z = p->node_offsets[g + 1], own = p->link_offsets[z] - p->link_offsets[a];
        if (own > links) links = own;
        for (int64_t k = a; k < z; k++) {
            const int64_t in = p->link_offsets[k + 1] - p->link_offsets[k];
            if (in > degree) degree = in;
        }
    }
    const int64_t rows = p->slots * width, room = 4 * rows + links + 2 * p->slots + 2 * degree / LANES + 2;
    void *all = aligned_alloc(64, ((size_t)room * sizeof(V) + 63) / 64 * 64);
    if (!all) return NULL;
    V *at = all;
    d->values = at; at += rows;
    d->back = at; at += rows;
    d->slope = at; at += rows;
    d->total = at; at += rows;
    d->sum[0] = at; at += links;
    d->sum[1] = at; at += p->slots;
    d->sum[2] = at; at += p->slots;
    d->terms = (float *)at;
    return all;
}

/* All steps of networks first .. last - 1. 1: no memory. */
int tune_networks(const Programs *p, const Tuning *t, int64_t first, int64_t last)
{
    Desk d;
    void *all = desk_open(&d, p, (int)(t->tile / LANES), first, last);
    if (!all) return 1;
    for (int64_t g = first; g < last; g++) {
        if (t->tile == 64) tune(p, t, &d, g, 64 / LANES);
        else tune(p, t, &d, g, 16 / LANES);
    }
    free(all);
    return 0;
}
