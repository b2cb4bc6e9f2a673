// flags: -ffp-contract=fast
/* A whole population of different networks: genes into programs, and programs evaluated.

   pack     prunes, orders and renumbers genes
   tiles    many inputs per network: a tile of 16 to 64 of them goes through a network with all its values in the L1 cache
   slices   one input per network: 16 nodes of the same activation, from many networks, share vectors; values are gathered */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"
#include "vectors.h"

/* ------------------------------------------------------------------------------------------------------------- pack */

/* A Population's arrays; same order as `_GENES` in phenotype/population.py. */
typedef struct {
    int64_t inputs, outputs, feed_forward;
    const int64_t *node_offsets;
    const int32_t *node_mark;
    const double *bias, *response;
    const uint8_t *activation, *aggregation;
    const int64_t *link_offsets;
    const int32_t *source, *target;
    const double *weight;
    const uint8_t *enabled;
} Genes;

/* A Programs's arrays, being written; same order as `_PACKED`. */
typedef struct {
    int64_t *node_offsets;
    uint8_t *activation, *aggregation;
    float *bias, *response;
    int32_t *level;
    int64_t *link_offsets;
    int32_t *link_slot;
    float *link_weight;
    int32_t *output_slot;
    int32_t *node_mark;
    int64_t *link_gene, *node_gene;
} Packed;

/* Room for one genome's graph: links by target, and what the search from the outputs finds. A slot is an input's number, or
   inputs + the number of a node. */
typedef struct {
    int32_t *key, *slot;                       /* hash table: mark -> slot */
    int shift;
    int32_t *from, *to, *gene;                 /* enabled links: slots, nodes, places in the genome */
    int32_t *first, *cursor, *into, *into_gene; /* links by target: node v has first[v] .. first[v + 1] of these */
    int32_t *level, *rank;                     /* by slot */
    int32_t *stack, *order, *other, *count;
    uint8_t *seen;                             /* by slot */
    uint8_t *kind;
    uint64_t before[64];                       /* of each node's sources one bit, where there are at most 64 nodes */
} Desk;

enum { KINDS = 32, BITS = 64 };

static int64_t most(const int64_t *offsets, const int64_t *indices, int64_t first, int64_t last)
{
    int64_t size = 1;
    for (int64_t i = first; i < last; i++) {
        const int64_t own = offsets[indices[i] + 1] - offsets[indices[i]];
        if (own > size) size = own;
    }
    return size;
}

/* Bits of a table that stays three quarters empty. */
static int table_bits(int64_t marks)
{
    int bits = 4;
    while ((int64_t)1 << bits < 4 * marks) bits++;
    return bits;
}

static void *desk_open(Desk *d, int64_t inputs, int64_t nodes, int64_t links)
{
    const int64_t room = (int64_t)1 << table_bits(inputs + nodes), counters = nodes + KINDS + 2;
    int32_t *all = malloc((size_t)(2 * room + 5 * links + 3 + 2 * (nodes + 1) + 2 * (inputs + nodes) + 3 * nodes + counters + inputs + nodes) * sizeof(int32_t));
    if (!all) return NULL;
    int32_t *at = all;
    d->key = at; at += room;
    d->slot = at; at += room;
    d->from = at; at += links + 1;
    d->to = at; at += links + 1;
    d->gene = at; at += links + 1;
    d->into = at; at += links;
    d->into_gene = at; at += links;
    d->first = at; at += nodes + 1;
    d->cursor = at; at += nodes + 1;
    d->level = at; at += inputs + nodes;
    d->rank = at; at += inputs + nodes;
    d->stack = at; at += nodes;
    d->order = at; at += nodes;
    d->other = at; at += nodes;
    d->count = at; at += counters;
    d->seen = (uint8_t *)at;
    d->kind = d->seen + inputs + nodes;
    return all;
}

INLINE uint32_t hashed(int32_t mark, int shift) { return (uint32_t)mark * 2654435769u >> shift; }

INLINE void put(Desk *d, uint32_t mask, int32_t mark, int32_t slot)
{
    uint32_t at = hashed(mark, d->shift);
    while (d->key[at] >= 0) at = (at + 1) & mask;
    d->key[at] = mark;
    d->slot[at] = slot;
}

INLINE int32_t found(const int32_t *key, const int32_t *slot, uint32_t mask, int shift, int32_t mark)
{
    uint32_t at = hashed(mark, shift);
    while (key[at] != mark) {
        if (key[at] < 0) return -1;
        at = (at + 1) & mask;
    }
    return slot[at];
}

/* Enabled links by target, in the order of their genes. -1: an end is missing. Whether a link is enabled or begins at an input
   cannot be foreseen, so nothing here branches on it. */
static int gather_links(Desk *d, const Genes *g, int64_t genome)
{
    const int64_t node = g->node_offsets[genome], nodes = g->node_offsets[genome + 1] - node;
    const int32_t inputs = (int32_t)g->inputs;
    const int bits = table_bits(inputs + nodes), shift = 32 - bits;
    const uint32_t mask = (uint32_t)((1ull << bits) - 1);
    int32_t *const key = d->key, *const slot = d->slot, *const first = d->first, *const cursor = d->cursor;
    int32_t *const from = d->from, *const to = d->to, *const gene = d->gene;
    d->shift = shift;
    memset(key, 0xff, sizeof(int32_t) << bits);
    for (int32_t i = 0; i < inputs; i++) put(d, mask, i, i);
    for (int64_t j = 0; j < nodes; j++) put(d, mask, g->node_mark[node + j], inputs + (int32_t)j);
    memset(first, 0, (size_t)(nodes + 1) * sizeof(int32_t));
    const int64_t begin = g->link_offsets[genome], count = g->link_offsets[genome + 1] - begin;
    const int32_t *source = g->source + begin, *target = g->target + begin;
    const uint8_t *enabled = g->enabled + begin;
    int64_t links = 0;
    int wrong = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t on = enabled[i] != 0;
        const int32_t u = found(key, slot, mask, shift, source[i]), v = found(key, slot, mask, shift, target[i]) - inputs;
        wrong |= on & ((u < 0) | (v < 0));
        from[links] = u;
        to[links] = v;
        gene[links] = (int32_t)i;
        links += on;
        first[v < 0 ? 0 : v + 1] += on;
    }
    if (wrong) return -1;
    for (int64_t j = 0; j < nodes; j++) {
        cursor[j] = first[j];
        first[j + 1] += first[j];
    }
    for (int64_t i = 0; i < links; i++) {
        const int32_t at = cursor[to[i]]++;
        d->into[at] = from[i];
        d->into_gene[at] = gene[i];
    }
    if (nodes > BITS) return 0;
    memset(d->before, 0, sizeof d->before);
    for (int64_t i = 0; i < links; i++) d->before[to[i]] |= (uint64_t)(from[i] >= inputs) << ((from[i] - inputs) & 63);
    return 0;
}

enum { UNSEEN, OPEN, DONE };

/* What `search` does, for at most 64 nodes: all of them at once as the bits of a word, three times as fast. */
static int search_bits(Desk *d, int64_t nodes, int32_t inputs, int64_t outputs, int feed_forward)
{
    const uint64_t *const before = d->before;
    int32_t *const level = d->level + inputs;
    uint64_t needed = 0, grown = ~0ull >> (BITS - outputs);
    while (grown != needed) {
        needed = grown;
        for (int64_t v = 0; v < nodes; v++) grown |= before[v] & -(needed >> v & 1);
    }
    for (int64_t v = 0; v < nodes; v++) d->seen[inputs + v] = needed >> v & 1 ? DONE : UNSEEN;
    memset(level, 0, (size_t)nodes * sizeof(int32_t));
    uint64_t done = 0;
    for (int32_t depth = 0; feed_forward && done != needed; depth++) {
        uint64_t ready = 0;
        for (int64_t v = 0; v < nodes; v++) ready |= (uint64_t)((before[v] & ~done) == 0) << v;
        ready &= needed & ~done;
        if (!ready) return -1;
        for (int64_t v = 0; v < nodes; v++) level[v] += (int32_t)(ready >> v & 1) * depth;
        done |= ready;
    }
    return 0;
}

/* Depth-first from the outputs against the links: marks what they need, levels by the longest way. -1: a cycle. */
static int search(Desk *d, int64_t nodes, int32_t inputs, int64_t outputs, int feed_forward)
{
    if (nodes <= BITS && outputs) return search_bits(d, nodes, inputs, outputs, feed_forward);
    uint8_t *const seen = d->seen + inputs, *const seen_slot = d->seen;
    int32_t *const level = d->level + inputs, *const level_slot = d->level;
    int32_t *const cursor = d->cursor, *const stack = d->stack;
    const int32_t *const first = d->first, *const into = d->into;
    memset(seen_slot, DONE, (size_t)inputs);
    memset(level_slot, 0xff, (size_t)inputs * sizeof(int32_t)); /* -1 */
    memset(seen, UNSEEN, (size_t)nodes);
    memset(level, 0, (size_t)nodes * sizeof(int32_t));
    memcpy(cursor, first, (size_t)nodes * sizeof(int32_t));
    for (int64_t o = 0; o < outputs; o++) {
        if (seen[o] != UNSEEN) continue;
        int64_t top = 0;
        stack[0] = (int32_t)o;
        seen[o] = OPEN;
        while (top >= 0) {
            const int32_t v = stack[top], end = first[v + 1];
            int32_t at = cursor[v], high = level[v];
            for (; at < end; at++) {
                const int32_t u = into[at];
                if (seen_slot[u] != DONE) {
                    if (seen_slot[u] == UNSEEN) break;
                    if (feed_forward) return -1;
                }
                high = high > level_slot[u] ? high : level_slot[u] + 1;
            }
            level[v] = high;
            cursor[v] = at;
            if (at == end) {
                seen[v] = DONE;
                top--;
            } else {
                stack[++top] = into[at] - inputs;
                seen_slot[into[at]] = OPEN;
            }
        }
    }
    if (!feed_forward) memset(level, 0, (size_t)nodes * sizeof(int32_t));
    return 0;
}

/* A stable counting sort of `count` nodes by a key below `keys`. */
#define SORT_BY(KEY, keys, from, to)                                                   \
    do {                                                                               \
        memset(d->count, 0, (size_t)((keys) + 1) * sizeof(int32_t));                   \
        for (int64_t j = 0; j < count; j++) d->count[(KEY)[from[j]] + 1]++;           \
        for (int64_t k = 0; k < (keys); k++) d->count[k + 1] += d->count[k];           \
        for (int64_t j = 0; j < count; j++) to[d->count[(KEY)[from[j]]]++] = from[j];    \
    } while (0)

/* A recurrent node without enabled links stays 0 (neat-python): a constant that owns no gene. */
INLINE int idle(const Desk *d, const Genes *g, int32_t v) { return !g->feed_forward && d->first[v] == d->first[v + 1]; }

static int64_t ordered(Desk *d, const Genes *g, int64_t node, int64_t nodes)
{
    const uint8_t *seen = d->seen + g->inputs;
    const int32_t *level = d->level + g->inputs;
    int64_t count = 0;
    int32_t depth = 0;
    for (int64_t v = 0; v < nodes; v++) {
        if (seen[v] != DONE) continue;
        d->order[count++] = (int32_t)v;
        d->kind[v] = idle(d, g, (int32_t)v) ? IDENTITY : g->activation[node + v];
        if (level[v] > depth) depth = level[v];
    }
    SORT_BY(d->kind, KINDS, d->order, d->other);
    SORT_BY(level, depth + 1, d->other, d->order);
    return count;
}

INLINE void emit_node(const Desk *d, const Genes *g, const Packed *out, int64_t node, int32_t v, int64_t at)
{
    const int64_t gene = node + v;
    const int constant = idle(d, g, v);
    out->activation[at] = d->kind[v];
    out->aggregation[at] = constant ? SUM : g->aggregation[gene];
    out->bias[at] = constant ? 0.0f : (float)g->bias[gene];
    out->response[at] = constant ? 0.0f : (float)g->response[gene];
    out->level[at] = d->level[g->inputs + v];
    out->node_mark[at] = g->node_mark[gene];
    out->node_gene[at] = constant ? -1 : gene;
}

INLINE int64_t emit_links(const Desk *d, const Genes *g, const Packed *out, int64_t begin, int32_t v, int64_t link)
{
    const int32_t end = d->first[v + 1];
    int32_t *const slot = out->link_slot;
    float *const weight = out->link_weight;
    int64_t *const own = out->link_gene;
    for (int32_t k = d->first[v]; k < end; k++, link++) {
        const int64_t gene = begin + d->into_gene[k];
        slot[link] = d->rank[d->into[k]];
        weight[link] = (float)g->weight[gene];
        own[link] = gene;
    }
    return link;
}

/* Genomes indices[first .. last) into `out`, whose arrays begin at `first`'s own place; its offsets count from there.
   Gives the number of the first genome with a cycle or a dangling link as -1 - number, -1 - last without memory, else 0. */
int64_t pack(const Genes *g, const int64_t *indices, const Packed *out, int64_t first, int64_t last)
{
    Desk desk, *d = &desk;
    const int32_t inputs = (int32_t)g->inputs;
    const int64_t outputs = g->outputs;
    void *memory =
        desk_open(d, inputs, most(g->node_offsets, indices, first, last), most(g->link_offsets, indices, first, last));
    if (!memory) return -1 - last;
    int64_t at = 0, link = 0;
    for (int32_t i = 0; i < inputs; i++) d->rank[i] = i;
    for (int64_t i = first; i < last; i++) {
        const int64_t genome = indices[i], node = g->node_offsets[genome], nodes = g->node_offsets[genome + 1] - node;
        if (gather_links(d, g, genome) < 0 || search(d, nodes, inputs, outputs, g->feed_forward != 0) < 0) {
            free(memory);
            return -1 - i;
        }
        const int64_t count = ordered(d, g, node, nodes);
        for (int64_t j = 0; j < count; j++) d->rank[inputs + d->order[j]] = inputs + (int32_t)j;
        for (int64_t j = 0; j < count; j++, at++) {
            emit_node(d, g, out, node, d->order[j], at);
            link = emit_links(d, g, out, g->link_offsets[genome], d->order[j], link);
            out->link_offsets[at + 1] = link;
        }
        for (int64_t o = 0; o < outputs; o++) out->output_slot[(i - first) * outputs + o] = d->rank[inputs + o];
        out->node_offsets[i - first + 1] = at;
    }
    free(memory);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------ tiles */

/* rows (count x columns) to block (columns x tile), zeros where rows end. */
INLINE void turned(const float *rows, int64_t count, int64_t columns, int64_t tile, float *block)
{
    for (int64_t c = 0; c < columns; c++) {
        for (int64_t r = 0; r < count; r++) block[c * tile + r] = rows[r * columns + c];
        for (int64_t r = count; r < tile; r++) block[c * tile + r] = 0.0f;
    }
}

/* x (steps x batch x columns) to blocks (steps x tiles x columns x tile), for inputs that all networks share. */
void turn(const float *x, int64_t steps, int64_t batch, int64_t columns, int64_t tile, float *blocks)
{
    for (int64_t s = 0; s < steps; s++)
        for (int64_t b = 0; b < batch; b += tile, blocks += columns * tile)
            turned(x + (s * batch + b) * columns, batch - b < tile ? batch - b : tile, columns, tile, blocks);
}

/* Rare aggregations, lane by lane. */
static __attribute__((noinline)) void aggregate_lanes(const Programs *p, int64_t node, const float *values, float *total, int64_t tile)
{
    const int64_t first = p->link_offsets[node], count = p->link_offsets[node + 1] - first;
    for (int64_t lane = 0; lane < tile; lane++)
        total[lane] = aggregate1(p->aggregation[node], p->link_slot + first, p->link_weight + first, count, values + lane, tile);
}

/* All nodes of one network, read from `from` and written to `to` (the same, if feed-forward); `width` vectors per value. */
INLINE void network_tile(const Programs *p, int64_t network, const V *from, V *to, const int width)
{
    const int64_t first = p->node_offsets[network], last = p->node_offsets[network + 1];
    V *made = to + p->inputs * width;
    int64_t link = p->link_offsets[first];
    for (int64_t node = first; node < last; node++, made += width) {
        const int64_t end = p->link_offsets[node + 1];
        V total[64 / LANES];
        EACH total[m] = broadcast(0.0f);
        if (__builtin_expect(p->aggregation[node] == SUM, 1)) {
            for (; link < end; link++) {
                const V weight = broadcast(p->link_weight[link]);
                const V *value = from + (int64_t)p->link_slot[link] * width;
                EACH total[m] += weight * value[m];
            }
        } else {
            V kept[64 / LANES];
            aggregate_lanes(p, node, (const float *)from, (float *)kept, (int64_t)width * LANES);
            EACH total[m] = kept[m];
            link = end;
        }
        const V bias = broadcast(p->bias[node]), response = broadcast(p->response[node]);
        EACH total[m] = bias + response * total[m];
        activate_tile(p->activation[node], total, width);
        EACH made[m] = total[m];
    }
}

/* What `tiles` is to do; same order as `_TILES`. */
typedef struct {
    const float *x;         /* shared: blocks made by `turn`; else networks x steps x batch x inputs */
    int64_t shared, steps, batch;
    int64_t hold;           /* recurrent: activations per input */
    int64_t every;          /* recurrent: outputs of all steps, not only of the last */
    float *state;           /* recurrent: networks x tiles x slots x tile, kept between calls; NULL: from 0 */
    float *out;             /* networks x (steps or 1) x outputs x batch */
} Work;

INLINE void run_tiles(const Programs *p, const Work *w, int64_t first, int64_t last, float *memory, const int width)
{
    const int64_t tile = (int64_t)width * LANES, inputs = p->inputs, outputs = p->outputs, room = p->slots * tile;
    const int64_t tiles = (w->batch + tile - 1) / tile, kept = w->every ? w->steps : 1;
    const size_t input_bytes = (size_t)(inputs * tile) * sizeof(float);
    for (int64_t network = first; network < last; network++) {
        const int32_t *output_slot = p->output_slot + network * outputs;
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t count = w->batch - t * tile < tile ? w->batch - t * tile : tile;
            float *now = memory, *next = p->feed_forward ? memory : memory + room;
            float *state = w->state ? w->state + (network * tiles + t) * room : NULL;
            if (state) memcpy(now, state, (size_t)room * sizeof(float));
            else if (!p->feed_forward) memset(now, 0, (size_t)room * sizeof(float));
            for (int64_t s = 0; s < w->steps; s++) {
                for (int64_t h = 0; h < w->hold; h++) {
                    if (w->shared) memcpy(now, w->x + (s * tiles + t) * inputs * tile, input_bytes);
                    else turned(w->x + ((network * w->steps + s) * w->batch + t * tile) * inputs, count, inputs, tile, now);
                    network_tile(p, network, (const V *)now, (V *)next, width);
                    float *swapped = now;
                    now = next;
                    next = swapped;
                }
                if (!w->every && s + 1 < w->steps) continue;
                float *out = w->out + (network * kept + (w->every ? s : 0)) * outputs * w->batch + t * tile;
                for (int64_t o = 0; o < outputs; o++)
                    memcpy(out + o * w->batch, now + output_slot[o] * tile, (size_t)count * sizeof(float));
            }
            if (state) memcpy(state, now, (size_t)room * sizeof(float));
        }
    }
}

/* Networks first .. last in tiles of 16, 32 or 64 inputs. -1: no memory. */
int64_t tiles(const Programs *p, const Work *w, int64_t tile, int64_t first, int64_t last)
{
    float *memory = aligned_alloc(64, (size_t)(2 * p->slots * tile) * sizeof(float));
    if (!memory) return -1;
    switch (tile) {
    case 16: run_tiles(p, w, first, last, memory, 16 / LANES); break;
    case 32: run_tiles(p, w, first, last, memory, 32 / LANES); break;
    default: run_tiles(p, w, first, last, memory, 64 / LANES); break;
    }
    free(memory);
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- slices */

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

#if LANES == 16
typedef uint16_t H __attribute__((vector_size(32), aligned(2), may_alias));
INLINE V picked_values(const float *values, const uint16_t *index)
{
    return (V)_mm512_i32gather_ps((__m512i)__builtin_convertvector(*(const H *)index, I), values, 4);
}
#elif LANES == 8
typedef uint16_t H __attribute__((vector_size(16), aligned(2), may_alias));
INLINE V picked_values(const float *values, const uint16_t *index)
{
    return (V)_mm256_i32gather_ps(values, (__m256i)__builtin_convertvector(*(const H *)index, I), 4);
}
#else
INLINE V picked_values(const float *values, const uint16_t *index)
{
    return (V){values[index[0]], values[index[1]], values[index[2]], values[index[3]]};
}
#endif

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
