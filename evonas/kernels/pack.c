/* Genes of a whole population into programs: pruned, ordered and renumbered. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"

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
