// flags: -ffp-contract=fast -fno-tree-vectorize
/* Many inputs per network: a tile of 16 to 64 of them goes through a network with all its values in the L1 cache.

   The vectors are written out: to look for more of them would take the compiler a quarter longer and find none. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "network.h"
#include "vectors.h"

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
    const int32_t *slot = p->link_slot + first;
    const float *weight = p->link_weight + first;
    const int kind = p->aggregation[node];
    for (int64_t lane = 0; lane < tile; lane++) total[lane] = aggregate1(kind, slot, weight, count, values + lane, tile);
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
