// flags: -ffp-contract=off
/* Variation and distance of direct genomes. Every function works on items first .. last-1, so that threads can share
   them, and gives exactly what the NumPy versions in encoding/breeding.py and encoding/hashing.py give: sums run over
   the genes in order, and no multiplication is fused with an addition. Genes of a genome stand sorted by mark. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;
typedef int32_t i32;
typedef uint64_t u64;
typedef uint8_t u8;

/* ------------------------------------------------------------------------------------------------ random numbers */

static inline u64 word(u64 key, i64 at) {
    u64 w = key + (u64)at * 0x9E3779B97F4A7C15u;
    w = (w ^ (w >> 30)) * 0xBF58476D1CE4E5B9u;
    w = (w ^ (w >> 27)) * 0x94D049BB133111EBu;
    return w ^ (w >> 31);
}

static inline double uniform(u64 key, i64 at) { return ((double)(i64)(word(key, at) >> 12) + 0.5) * 0x1p-52; }

static inline i64 below(u64 key, i64 at, i64 count) { return (i64)(uniform(key, at) * (double)count); }

static inline double polynomial(const double *coefficients, int count, double x) {
    double value = coefficients[0];
    for (int i = 1; i < count; i++) value = value * x + coefficients[i];
    return value;
}

static double logarithm(double x) {
    static const double series[12] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                      1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    int exponent;
    double fraction = frexp(x, &exponent);
    if (fraction < 0.7071067811865476) fraction *= 2.0, exponent--;
    double ratio = (fraction - 1.0) / (fraction + 1.0);
    return exponent * 0.6931471805599453 + 2.0 * ratio * polynomial(series, 12, ratio * ratio);
}

enum { BLOCK = 256 };

static void uniforms(u64 key, i64 at, i64 count, double *restrict made) {
    for (i64 i = 0; i < count; i++) made[i] = uniform(key, at + i);
}

/* Wichura 1988, AS 241: the central function for all, which vectorises, then the tails. */
static void normals(u64 key, i64 at, i64 count, double *restrict made) {
    static const double centre[2][8] = {
        {2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
         13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080},
        {5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867,
         5394.1960214247511077, 687.18700749205790830, 42.313330701600911252, 1.0}};
    static const double outside[2][8] = {
        {7.74545014278341407640e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258,
         3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734},
        {1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.148103976427480074590,
         0.689767334985100004550, 1.67638483018380384940, 2.05319162663775882187, 1.0}};
    double chance[BLOCK];
    int tails[BLOCK], tail_count = 0;
    uniforms(key, at, count, chance);
    for (i64 i = 0; i < count; i++) {
        double offset = chance[i] - 0.5, x = 0.180625 - offset * offset;
        made[i] = offset * (polynomial(centre[0], 8, x) / polynomial(centre[1], 8, x));
    }
    for (i64 i = 0; i < count; i++) {
        tails[tail_count] = i;
        tail_count += fabs(chance[i] - 0.5) > 0.425;
    }
    for (int t = 0; t < tail_count; t++) {
        double side = chance[tails[t]];
        double distance = sqrt(-logarithm(side < 0.5 ? side : 1.0 - side));
        double x = (distance < 5.0 ? distance : 5.0) - 1.6;
        double deviate = polynomial(outside[0], 8, x) / polynomial(outside[1], 8, x);
        made[tails[t]] = side < 0.5 ? -deviate : deviate;
    }
}

static void deviates(u64 key, i64 at, i64 count, i64 gauss, double *restrict made) {
    if (gauss) {
        normals(key, at, count, made);
        return;
    }
    uniforms(key, at, count, made);
    for (i64 i = 0; i < count; i++) made[i] = 2.0 * made[i] - 1.0;
}

/* --------------------------------------------------------------------------------------------------------- values */

struct value {
    double mean, deviation, least, most, mutate, either, power;
    i64 gauss_draw, gauss_perturb;
};

/* One uniform decides for each touched gene between perturbing, drawing anew and leaving it. */
void vary(i64 first, i64 last, const double *restrict old, const u8 *restrict touched, const struct value *restrict how,
          u64 decide, u64 size, double *restrict made) {
    const struct value rule = *how;
    double chance[BLOCK], change[BLOCK], fresh[BLOCK];
    for (i64 at = first; at < last; at += BLOCK) {
        i64 count = last - at < BLOCK ? last - at : BLOCK;
        uniforms(decide, at, count, chance);
        deviates(size, at, count, rule.gauss_perturb, change);
        if (rule.gauss_draw == rule.gauss_perturb) memcpy(fresh, change, count * sizeof *fresh);
        else deviates(size, at, count, rule.gauss_draw, fresh);
        for (i64 i = 0; i < count; i++) {
            double value = old[at + i];
            double varied = chance[i] < rule.mutate ? value + rule.power * change[i] : rule.mean + rule.deviation * fresh[i];
            varied = varied > rule.least ? varied : rule.least;
            varied = varied < rule.most ? varied : rule.most;
            made[at + i] = touched[at + i] && chance[i] < rule.either ? varied : value;
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- crossover */

struct nodes {
    const i64 *offsets;
    i32 *mark;
    double *bias, *response;
    u8 *activation, *aggregation;
};

struct links {
    const i64 *offsets;
    i32 *mark, *source, *target;
    double *weight;
    u8 *enabled;
};

static void copy_nodes(const struct nodes *from, i64 at, i64 count, const struct nodes *to, i64 out) {
    memcpy(to->mark + out, from->mark + at, count * sizeof(i32));
    memcpy(to->bias + out, from->bias + at, count * sizeof(double));
    memcpy(to->response + out, from->response + at, count * sizeof(double));
    memcpy(to->activation + out, from->activation + at, count);
    memcpy(to->aggregation + out, from->aggregation + at, count);
}

static void copy_links(const struct links *from, i64 at, i64 count, const struct links *to, i64 out) {
    memcpy(to->mark + out, from->mark + at, count * sizeof(i32));
    memcpy(to->source + out, from->source + at, count * sizeof(i32));
    memcpy(to->target + out, from->target + at, count * sizeof(i32));
    memcpy(to->weight + out, from->weight + at, count * sizeof(double));
    memcpy(to->enabled + out, from->enabled + at, count);
}

/* Nodes or links alike: offsets, marks, and the other columns. */
struct genes {
    const i64 *offsets;
    char *column[5];
};

static const i64 item[2][5] = {{4, 8, 8, 1, 1}, {4, 4, 4, 8, 1}};

static void copy(i64 kind, const struct genes *from, i64 at, i64 count, const struct genes *to, i64 out) {
    for (int c = 0; c < 5; c++)
        memcpy(to->column[c] + out * item[kind][c], from->column[c] + at * item[kind][c], count * item[kind][c]);
}

/* Genome index[i] of `from` becomes genome i of `to`; nothing where the index is negative. */
void gather(i64 first, i64 last, i64 kind, const i64 *index, const struct genes *from, const struct genes *to) {
    for (i64 i = first; i < last; i++)
        if (index[i] >= 0)
            copy(kind, from, from->offsets[index[i]], from->offsets[index[i] + 1] - from->offsets[index[i]], to,
                 to->offsets[i]);
}

/* Each genome without its dropped genes and with its new ones, which are sorted by mark too. */
void splice(i64 first, i64 last, i64 kind, const struct genes *from, const u8 *dropped, const struct genes *new,
            const struct genes *to) {
    const i32 *old_mark = (const i32 *)from->column[0], *new_mark = (const i32 *)new->column[0];
    for (i64 i = first; i < last; i++) {
        i64 at = from->offsets[i], end = from->offsets[i + 1], out = to->offsets[i];
        i64 added = new->offsets[i], added_end = new->offsets[i + 1];
        while (at < end || added < added_end) {
            i64 run = at;
            while (run < end && !dropped[run] && (added == added_end || old_mark[run] < new_mark[added])) run++;
            copy(kind, from, at, run - at, to, out);
            out += run - at, at = run;
            if (at < end && dropped[at]) at++;
            else if (added < added_end) copy(kind, new, added++, 1, to, out++);
        }
    }
}

/* Child i has the structure of fitter[i]; a gene that other[i] has too is drawn from either, or the mean of both. */
void mate(i64 first, i64 last, const i64 *fitter, const i64 *other, const u8 *average, const struct nodes *nodes,
          const struct links *links, const struct nodes *child_nodes, const struct links *child_links, double disabled,
          u64 node_key, u64 link_key, u64 disabled_key) {
    for (i64 i = first; i < last; i++) {
        i64 node = nodes->offsets[fitter[i]], link = links->offsets[fitter[i]];
        i64 node_count = nodes->offsets[fitter[i] + 1] - node, link_count = links->offsets[fitter[i] + 1] - link;
        i64 node_out = child_nodes->offsets[i], link_out = child_links->offsets[i];
        copy_nodes(nodes, node, node_count, child_nodes, node_out);
        copy_links(links, link, link_count, child_links, link_out);
        if (other[i] < 0 || other[i] == fitter[i]) continue;

        i64 j = nodes->offsets[other[i]], end = nodes->offsets[other[i] + 1];
        for (i64 k = node_out; k < node_out + node_count; k++) {
            while (j < end && nodes->mark[j] < child_nodes->mark[k]) j++;
            if (j == end) break;
            if (nodes->mark[j] != child_nodes->mark[k]) continue;
            int switched = word(node_key, k) >> 63;
            if (average[i]) {
                child_nodes->bias[k] = (child_nodes->bias[k] + nodes->bias[j]) * 0.5;
                child_nodes->response[k] = (child_nodes->response[k] + nodes->response[j]) * 0.5;
            } else {
                child_nodes->bias[k] = switched ? nodes->bias[j] : child_nodes->bias[k];
                child_nodes->response[k] = switched ? nodes->response[j] : child_nodes->response[k];
            }
            child_nodes->activation[k] = switched ? nodes->activation[j] : child_nodes->activation[k];
            child_nodes->aggregation[k] = switched ? nodes->aggregation[j] : child_nodes->aggregation[k];
        }

        j = links->offsets[other[i]], end = links->offsets[other[i] + 1];
        for (i64 k = link_out; k < link_out + link_count; k++) {
            while (j < end && links->mark[j] < child_links->mark[k]) j++;
            u8 enabled = child_links->enabled[k];
            if (j < end && links->mark[j] == child_links->mark[k]) {
                double mine = child_links->weight[k], theirs = links->weight[j];
                int switched = word(link_key, k) >> 63;
                child_links->weight[k] = average[i] ? (mine + theirs) * 0.5 : switched ? theirs : mine;
                enabled &= links->enabled[j];
            }
            if (!enabled) child_links->enabled[k] = uniform(disabled_key, k) >= disabled;
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- structure */

/* One genome's links as lists by source, over positions among its nodes; inputs have position -1, since no link ends
   there. `place` is indexed by mark and valid for the nodes of the genome only. */
struct graph {
    i32 *place, *head, *stack, *next, *target;
    u8 *reached;
    i64 nodes;
};

static int open_graph(struct graph *graph, i64 most_nodes, i64 most_links, i64 most_mark) {
    graph->place = malloc((most_mark + 1) * sizeof(i32));
    graph->head = malloc((most_nodes + 1) * sizeof(i32));
    graph->stack = malloc((most_nodes + 1) * sizeof(i32));
    graph->next = malloc((most_links + 1) * sizeof(i32));
    graph->target = malloc((most_links + 1) * sizeof(i32));
    graph->reached = malloc(most_nodes + 1);
    return graph->place && graph->head && graph->stack && graph->next && graph->target && graph->reached;
}

static void close_graph(struct graph *graph) {
    free(graph->place), free(graph->head), free(graph->stack), free(graph->next), free(graph->target);
    free(graph->reached);
}

static void start_graph(struct graph *graph, i64 inputs, const i32 *marks, i64 nodes) {
    for (i64 i = 0; i < inputs; i++) graph->place[i] = -1;
    for (i64 i = 0; i < nodes; i++) graph->place[marks[i]] = i, graph->head[i] = -1;
    graph->nodes = nodes;
}

static void add(struct graph *graph, i64 link, i32 source, i32 target) {
    i32 from = graph->place[source];
    if (from < 0) return;
    graph->target[link] = graph->place[target];
    graph->next[link] = graph->head[from];
    graph->head[from] = link;
}

/* Whether links lead from one node to another. */
static int leads(struct graph *graph, i32 from, i32 to) {
    if (from == to) return 1;
    memset(graph->reached, 0, graph->nodes);
    graph->reached[from] = 1;
    graph->stack[0] = from;
    for (i64 waiting = 1; waiting;) {
        for (i32 link = graph->head[graph->stack[--waiting]]; link >= 0; link = graph->next[link]) {
            i32 after = graph->target[link];
            if (after == to) return 1;
            graph->stack[waiting] = after;
            waiting += !graph->reached[after];
            graph->reached[after] = 1;
        }
    }
    return 0;
}

/* Finds for each genome of `which` two nodes to link, in at most `tries` draws: their marks, and the position of the
   disabled link between them or -1; the target is -1 where no place was found. Returns 0 where memory ran out. */
int place_links(i64 first, i64 last, const i64 *which, const i64 *child, i64 tries, i64 feed_forward, i64 inputs,
                const struct nodes *nodes, const struct links *links, u64 source_key, u64 target_key, i64 most_nodes,
                i64 most_links, i64 most_mark, i32 *out_source, i32 *out_target, i64 *out_link) {
    struct graph graph;
    int ready = open_graph(&graph, most_nodes, most_links, most_mark);
    for (i64 i = first; ready && i < last; i++) {
        i64 node = nodes->offsets[which[i]], link = links->offsets[which[i]];
        i64 node_count = nodes->offsets[which[i] + 1] - node, link_count = links->offsets[which[i] + 1] - link;
        const i32 *marks = nodes->mark + node, *source = links->source + link, *target = links->target + link;
        int built = 0;
        out_target[i] = -1;
        for (i64 try = 0; try < tries; try++) {
            i64 from = below(source_key, child[i] * tries + try, inputs + node_count) - inputs;
            i64 to = below(target_key, child[i] * tries + try, node_count), known = 0;
            i32 from_mark = from < 0 ? (i32)(from + inputs) : marks[from], to_mark = marks[to];
            while (known < link_count && (source[known] != from_mark || target[known] != to_mark)) known++;
            if (known < link_count) {
                if (links->enabled[link + known]) continue;
            } else if (feed_forward && from >= 0) {
                if (!built) start_graph(&graph, inputs, marks, node_count);
                for (i64 k = 0; !built && k < link_count; k++) add(&graph, k, source[k], target[k]);
                built = 1;
                if (leads(&graph, to, from)) continue;
            }
            out_source[i] = from_mark, out_target[i] = to_mark;
            out_link[i] = known < link_count ? link + known : -1;
            break;
        }
    }
    close_graph(&graph);
    return ready;
}

/* Keeps of each genome's added links, in order, those that close no cycle with the links kept before and all that were
   not added. `used` is 0 for the added ones at first and 1 for the kept ones at the end. */
int keep_acyclic(i64 first, i64 last, i64 inputs, const struct nodes *nodes, const struct links *links, i64 most_nodes,
                 i64 most_links, i64 most_mark, u8 *used) {
    struct graph graph;
    int ready = open_graph(&graph, most_nodes, most_links, most_mark);
    for (i64 i = first; ready && i < last; i++) {
        i64 node = nodes->offsets[i], link = links->offsets[i], link_count = links->offsets[i + 1] - link;
        const i32 *source = links->source + link, *target = links->target + link;
        u8 *kept = used + link;
        start_graph(&graph, inputs, nodes->mark + node, nodes->offsets[i + 1] - node);
        for (i64 k = 0; k < link_count; k++)
            if (kept[k]) add(&graph, k, source[k], target[k]);
        for (i64 k = 0; k < link_count; k++) {
            if (kept[k]) continue;
            i32 from = graph.place[source[k]];
            if (from >= 0 && leads(&graph, graph.place[target[k]], from)) continue;
            kept[k] = 1;
            add(&graph, k, source[k], target[k]);
        }
    }
    close_graph(&graph);
    return ready;
}

/* -------------------------------------------------------------------------------------------------------- distance */

enum { LANES = 16 };

#if defined(__AVX512F__)
enum { WIDTH = 8 };
#elif defined(__AVX__)
enum { WIDTH = 4 };
#else
enum { WIDTH = 2 };
#endif
enum { VECTORS = LANES / WIDTH };
typedef double vector __attribute__((vector_size(WIDTH * sizeof(double)), aligned(sizeof(double))));
typedef i64 mask __attribute__((vector_size(WIDTH * sizeof(i64)), aligned(sizeof(double))));

/* Genes shared with each of 16 representatives and the sum of their differences. `row` gives a mark's row in the table
   (row 0: none has it). A row holds 16 numbers for each of: 1 where the representative has the gene, its values, its
   codes. */
void overlap(i64 first, i64 last, const i64 *offsets, const i32 *mark, i64 marks, const i32 *row, const double *table,
             i64 values, const double *const *value, i64 codes, const u8 *const *code, double *shared,
             double *difference) {
    const vector zero = {0}, one = zero + 1.0;
    const mask magnitude = (mask)zero + INT64_MAX;
    for (i64 i = first; i < last; i++) {
        vector count[VECTORS] = {zero}, sum[VECTORS] = {zero};
        for (i64 k = offsets[i]; k < offsets[i + 1]; k++) {
            i64 at = mark[k] < marks ? row[mark[k]] : 0;
            if (!at) continue;
            const vector *present = (const vector *)(table + at * (1 + values + codes) * LANES), *entry = present;
            vector apart[VECTORS] = {zero};
            for (i64 c = 0; c < values; c++) {
                entry += VECTORS;
                for (int r = 0; r < VECTORS; r++) apart[r] += (vector)((mask)(value[c][k] - entry[r]) & magnitude);
            }
            for (i64 c = 0; c < codes; c++) {
                entry += VECTORS;
                for (int r = 0; r < VECTORS; r++)
                    apart[r] += (vector)((mask)((double)code[c][k] != entry[r]) & (mask)one);
            }
            for (int r = 0; r < VECTORS; r++) {
                count[r] += present[r];
                sum[r] += apart[r] * present[r];
            }
        }
        memcpy(shared + i * LANES, count, sizeof count);
        memcpy(difference + i * LANES, sum, sizeof sum);
    }
}

/* Counts of each genome's genes with marks above each limit, (genomes, limits). */
void beyond(i64 first, i64 last, const i64 *offsets, const i32 *mark, const i32 *limits, i64 count, double *above) {
    for (i64 i = first; i < last; i++)
        for (i64 j = 0; j < count; j++) {
            i64 low = offsets[i], end = offsets[i + 1];
            for (i64 high = end; low < high;) {
                i64 middle = (low + high) / 2;
                if (mark[middle] <= limits[j]) low = middle + 1;
                else high = middle;
            }
            above[i * count + j] = (double)(end - low);
        }
}
