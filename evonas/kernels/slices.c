// flags: -ffp-contract=fast -fno-tree-vectorize
/* One input per network: 16 nodes of the same activation, from many networks, share vectors; values are gathered. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"
#include "vectors.h"

#define SLICE 16
#define DEGREES 16

/* A population's nodes in slices, by chunks of rows whose values fit the L1 cache; same order as `_SLICES`. A row is one
   network with a state of its own: network = row / copies. A chunk's values: its rows' inputs, then 16 per slice. */
typedef struct {
    int64_t copies;
    const int64_t *chunk_row;     /* chunks + 1 */
    const int64_t *chunk_node;    /* chunks + 1: nodes of the chunk's rows, one after the other */
    const int64_t *chunk_slice;   /* chunks + 1 */
    const int64_t *chunk_value;   /* chunks + 1 */
    int32_t *order;               /* nodes of a chunk in evaluation order, each by its number within the chunk */
    uint8_t *size;                /* per slice: nodes in it */
    int32_t *width;               /* per slice: links per node, padded with weight 0 */
    const int64_t *link;          /* slices + 1: in units of 16 links */
    uint8_t *activation, *aggregation;
    float *bias, *response;       /* slices x 16 */
    int32_t *degree;              /* slices x 16 */
    uint16_t *index;              /* links x 16: where in the chunk's values */
    float *weight;
    int32_t *output;              /* rows x outputs: where in the chunk's values */
    int32_t *position;            /* per node: where in the chunk's values */
    float *state;                 /* recurrent: two sets of values of all chunks */
} Slices;

/* Room for one chunk's graph. */
typedef struct {
    int64_t *network, *node; /* of each node in the chunk: its row's first node in the chunk; its place in the programs */
    int32_t *waiting, *next, *first, *consumer, *key;
    int32_t (*head)[DEGREES], (*count)[DEGREES], *total;
} Bench;

enum { KEYS = 256 };

/* The mean is a sum whose response is divided by the number of links. */
INLINE int rule(const Programs *p, int64_t node) { return p->aggregation[node] == MEAN ? SUM : p->aggregation[node]; }
INLINE int64_t degree(const Programs *p, int64_t node) { return p->link_offsets[node + 1] - p->link_offsets[node]; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE void ready(Bench *b, const Programs *p, int32_t v)
{
    const int64_t d = smaller(degree(p, b->node[v]), DEGREES - 1);
    const int32_t key = b->key[v];
    b->next[v] = b->head[key][d];
    b->head[key][d] = v;
    b->count[key][d]++;
    b->total[key]++;
}

/* Up to 16 ready nodes of one key, most of them with as many links as most that are ready, the others first with fewer. */
static int picked(Bench *b, int key, int32_t *into)
{
    int start = 0, size = 0;
    for (int d = 1; d < DEGREES; d++)
        if (b->count[key][d] > b->count[key][start]) start = d;
    for (int step = 0; step < DEGREES && size < SLICE; step++) {
        const int d = step <= start ? start - step : step;
        for (; b->count[key][d] > 0 && size < SLICE; size++) {
            const int32_t v = b->head[key][d];
            into[size] = v;
            b->head[key][d] = b->next[v];
            b->count[key][d]--;
        }
    }
    b->total[key] -= size;
    return size;
}

/* The chunk's nodes, what each of them waits for, and who waits for it. */
static int32_t listed(Bench *b, const Programs *p, const Slices *s, int64_t chunk)
{
    int32_t nodes = 0;
    for (int64_t row = s->chunk_row[chunk]; row < s->chunk_row[chunk + 1]; row++) {
        const int64_t first = p->node_offsets[row / s->copies], last = p->node_offsets[row / s->copies + 1];
        const int32_t base = nodes;
        for (int64_t node = first; node < last; node++, nodes++) {
            b->network[nodes] = base;
            b->node[nodes] = node;
            b->key[nodes] = p->activation[node] * 8 + rule(p, node);
        }
    }
    memset(b->waiting, 0, (size_t)nodes * sizeof(int32_t));
    memset(b->first, 0, (size_t)(nodes + 2) * sizeof(int32_t));
    if (!p->feed_forward) return nodes;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t v = 0; v < nodes; v++)
            for (int64_t i = p->link_offsets[b->node[v]]; i < p->link_offsets[b->node[v] + 1]; i++) {
                const int64_t from = p->link_slot[i] - p->inputs;
                if (from < 0) continue;
                const int64_t u = b->network[v] + from;
                if (pass) b->consumer[b->first[u + 1]++] = v;
                else { b->first[u + 2]++; b->waiting[v]++; }
            }
        if (!pass) for (int32_t v = 0; v < nodes; v++) b->first[v + 2] += b->first[v + 1];
    }
    return nodes;
}

/* Chooses the order of one chunk's nodes: again and again a slice of the key that has the most nodes ready. */
static int64_t schedule(Bench *b, const Programs *p, const Slices *s, int64_t chunk, int32_t *order, uint8_t *size, int32_t *width)
{
    const int32_t nodes = listed(b, p, s, chunk);
    int64_t slices = 0;
    for (int key = 0; key < KEYS; key++) {
        b->total[key] = 0;
        for (int d = 0; d < DEGREES; d++) b->head[key][d] = -1, b->count[key][d] = 0;
    }
    for (int32_t v = nodes - 1; v >= 0; v--)
        if (b->waiting[v] == 0) ready(b, p, v);
    for (int32_t done = 0; done < nodes; slices++) {
        int key = 0;
        for (int k = 1; k < KEYS; k++)
            if (b->total[k] > b->total[key]) key = k;
        const int taken = picked(b, key, order + done);
        int64_t most_links = 0;
        for (int lane = 0; lane < taken; lane++) {
            const int32_t v = order[done + lane];
            const int64_t own = degree(p, b->node[v]);
            if (own > most_links) most_links = own;
            if (!p->feed_forward) continue;
            for (int32_t i = b->first[v]; i < b->first[v + 1]; i++)
                if (--b->waiting[b->consumer[i]] == 0) ready(b, p, b->consumer[i]);
        }
        size[slices] = (uint8_t)taken;
        width[slices] = (int32_t)most_links;
        done += taken;
    }
    return slices;
}

/* First pass: orders the nodes of chunks first .. last; a chunk's slices are written from its first node's place on. */
int64_t arrange(const Programs *p, const Slices *s, int64_t *slices, int64_t first, int64_t last)
{
    int64_t nodes = 1, links = 1;
    for (int64_t c = first; c < last; c++) {
        int64_t own = 0;
        for (int64_t row = s->chunk_row[c]; row < s->chunk_row[c + 1]; row++)
            own += p->link_offsets[p->node_offsets[row / s->copies + 1]] - p->link_offsets[p->node_offsets[row / s->copies]];
        if (own > links) links = own;
        if (s->chunk_node[c + 1] - s->chunk_node[c] > nodes) nodes = s->chunk_node[c + 1] - s->chunk_node[c];
    }
    int64_t *memory = malloc((size_t)(2 * nodes) * sizeof(int64_t) +
                             (size_t)(4 * nodes + 2 + links + KEYS * (2 * DEGREES + 1)) * sizeof(int32_t));
    if (!memory) return -1;
    Bench b;
    b.network = memory;
    b.node = b.network + nodes;
    b.waiting = (int32_t *)(b.node + nodes);
    b.next = b.waiting + nodes;
    b.first = b.next + nodes;
    b.consumer = b.first + nodes + 2;
    b.key = b.consumer + links;
    b.head = (int32_t (*)[DEGREES])(b.key + nodes);
    b.count = b.head + KEYS;
    b.total = (int32_t *)(b.count + KEYS);
    for (int64_t c = first; c < last; c++) {
        const int64_t at = s->chunk_node[c];
        slices[c] = schedule(&b, p, s, c, s->order + at, s->size + at, s->width + at);
    }
    free(memory);
    return 0;
}

/* Where a link's source stands among the chunk's values. `row` counts within the chunk, `base` is its first node there. */
INLINE uint16_t located(const Programs *p, const Slices *s, int64_t at, int64_t base, int64_t row, int32_t slot)
{
    return (uint16_t)(slot < p->inputs ? row * p->inputs + slot : s->position[at + base + slot - p->inputs]);
}

/* One node's links in its slice: every 16th place, or one after the other where lanes are computed one by one. */
static void lay(const Programs *p, const Slices *s, int64_t slice, int lane, int64_t at, int64_t base, int64_t row, int64_t node)
{
    const int64_t place = slice * SLICE + lane, first = p->link_offsets[node], own = degree(p, node), width = s->width[slice];
    const int plain = rule(p, node) == SUM;
    const int64_t start = s->link[slice] * SLICE + (plain ? lane : lane * width), stride = plain ? SLICE : 1;
    const uint16_t spare = own ? located(p, s, at, base, row, p->link_slot[first]) : (uint16_t)(row * p->inputs);
    s->bias[place] = p->bias[node];
    s->response[place] = p->aggregation[node] == MEAN && own ? p->response[node] / (float)own : p->response[node];
    s->degree[place] = (int32_t)own;
    for (int64_t k = 0; k < width; k++) {
        s->index[start + k * stride] = k < own ? located(p, s, at, base, row, p->link_slot[first + k]) : spare;
        s->weight[start + k * stride] = k < own ? p->link_weight[first + k] : 0.0f;
    }
}

/* Second pass: fills the slices of chunks first .. last. `row_of` and `base_of` have room for the nodes of all chunks. */
void fill(const Programs *p, const Slices *s, int32_t *row_of, int32_t *base_of, int64_t *node_of, int64_t first, int64_t last)
{
    for (int64_t c = first; c < last; c++) {
        const int64_t at = s->chunk_node[c], rows = s->chunk_row[c + 1] - s->chunk_row[c];
        const int64_t inputs = (rows * p->inputs + SLICE - 1) / SLICE * SLICE;
        int64_t node_at = at, done = at;
        for (int64_t r = 0; r < rows; r++) {
            const int64_t network = (s->chunk_row[c] + r) / s->copies, base = node_at - at;
            for (int64_t node = p->node_offsets[network]; node < p->node_offsets[network + 1]; node++, node_at++) {
                row_of[node_at] = (int32_t)r;
                base_of[node_at] = (int32_t)base;
                node_of[node_at] = node;
            }
        }
        for (int64_t slice = s->chunk_slice[c]; slice < s->chunk_slice[c + 1]; slice++)
            for (int lane = 0; lane < s->size[slice]; lane++, done++)
                s->position[at + s->order[done]] = (int32_t)(inputs + (slice - s->chunk_slice[c]) * SLICE + lane);
        done = at;
        for (int64_t slice = s->chunk_slice[c]; slice < s->chunk_slice[c + 1]; slice++) {
            const int64_t any = node_of[at + s->order[done]];
            s->activation[slice] = p->activation[any];
            s->aggregation[slice] = (uint8_t)rule(p, any);
            for (int lane = 0; lane < s->size[slice]; lane++, done++) {
                const int64_t v = at + s->order[done];
                lay(p, s, slice, lane, at, base_of[v], row_of[v], node_of[v]);
            }
        }
        for (int64_t r = 0, base = at; r < rows; r++) {
            const int64_t row = s->chunk_row[c] + r, network = row / s->copies;
            for (int64_t o = 0; o < p->outputs; o++)
                s->output[row * p->outputs + o] = s->position[base + p->output_slot[network * p->outputs + o] - p->inputs];
            base += p->node_offsets[network + 1] - p->node_offsets[network];
        }
    }
}

typedef uint16_t H __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE V picked_values(const float *values, const uint16_t *index)
{
    return gatherv(values, __builtin_convertvector(*(const H *)index, I));
}

/* Rare aggregations, node by node. */
static __attribute__((noinline)) void aggregate_slice(const Slices *s, int64_t slice, const float *values, float *total)
{
    const int64_t width = s->width[slice];
    int32_t slot[width + 1];
    for (int lane = 0; lane < s->size[slice]; lane++) {
        const int64_t start = s->link[slice] * SLICE + lane * width, count = s->degree[slice * SLICE + lane];
        for (int64_t k = 0; k < count; k++) slot[k] = s->index[start + k];
        total[lane] = aggregate1(s->aggregation[slice], slot, s->weight + start, count, values, 1);
    }
}

INLINE void run_slices(const Slices *s, int64_t chunk, const float *from, float *to)
{
    const int width = SLICE / LANES;
    const int64_t first = s->chunk_slice[chunk], last = s->chunk_slice[chunk + 1];
    int64_t link = s->link[first] * SLICE;
    for (int64_t slice = first; slice < last; slice++, to += SLICE) {
        const int64_t end = s->link[slice + 1] * SLICE;
        V total[SLICE / LANES];
        EACH total[m] = broadcast(0.0f);
        if (__builtin_expect(s->aggregation[slice] == SUM, 1)) {
            for (; link < end; link += SLICE)
                EACH total[m] += ((const V *)(s->weight + link))[m] * picked_values(from, s->index + link + m * LANES);
        } else {
            float kept[SLICE] = {0};
            aggregate_slice(s, slice, from, kept);
            memcpy(total, kept, sizeof kept);
            link = end;
        }
        const V *bias = (const V *)(s->bias + slice * SLICE), *response = (const V *)(s->response + slice * SLICE);
        EACH total[m] = bias[m] + response[m] * total[m];
        activate_tile(s->activation[slice], total, width);
        EACH ((V *)to)[m] = total[m];
    }
}

/* One step of the rows of chunks first .. last: x (rows x inputs) to y (rows x outputs). `which` tells which of the two
   states is the newest; after `hold` activations it is (which + hold) % 2. Feed-forward values stay in `room` floats. */
int64_t slices(const Programs *p, const Slices *s, const float *x, float *y, int64_t hold, int64_t which, int64_t room,
               int64_t first, int64_t last)
{
    float *memory = p->feed_forward ? aligned_alloc(64, (size_t)(room + SLICE) * sizeof(float)) : NULL;
    if (p->feed_forward && !memory) return -1;
    for (int64_t c = first; c < last; c++) {
        const int64_t row = s->chunk_row[c], rows = s->chunk_row[c + 1] - row;
        const int64_t inputs = (rows * p->inputs + SLICE - 1) / SLICE * SLICE, size = s->chunk_value[c + 1] - s->chunk_value[c];
        float *state = s->state + 2 * s->chunk_value[c];
        float *now = memory ? memory : state + (which ? size : 0);
        float *next = memory ? memory : state + (which ? 0 : size);
        for (int64_t h = 0; h < hold; h++) {
            memcpy(now, x + row * p->inputs, (size_t)(rows * p->inputs) * sizeof(float));
            run_slices(s, c, now, next + inputs);
            float *swapped = now;
            now = next;
            next = swapped;
        }
        const int32_t *output = s->output + row * p->outputs;
        for (int64_t i = 0; i < rows * p->outputs; i++) y[row * p->outputs + i] = now[output[i]];
    }
    free(memory);
    return 0;
}
