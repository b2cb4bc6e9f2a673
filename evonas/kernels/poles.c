// flags: -ffp-contract=off
/* Whole episodes of pole balancing: network and physics in one loop, without Python in between.

   Physics in float64, operation by operation as in task/poles.py, whose results are the same bits where the networks'
   outputs are. Wieland's equations for one or two poles by RK4, and Gymnasium's CartPole-v1 by Euler. Several episodes
   run side by side in the lanes of a vector, since one alone would wait for its own results most of the time. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"

#if defined(__AVX512F__)
enum { LANES = 8 };
#elif defined(__AVX__)
enum { LANES = 4 };
#else
enum { LANES = 2 };
#endif
typedef double Wide __attribute__((vector_size(LANES * sizeof(double))));

enum { STATE = 6, LAST = 100 };

/* Same order as `_Game._fields_` in task/poles.py. */
typedef struct {
    int64_t poles;       /* 1, 2: Wieland's; 0: CartPole-v1 */
    int64_t limit, activations;
    int64_t seen;        /* how many numbers of the state the network sees, and which */
    int64_t position[STATE];
    double scale[STATE]; /* what each is divided by */
    double bias;         /* a constant last input; NaN for none */
    double angle;        /* where a pole has fallen, rad */
} Game;

/* Minimax polynomials for |t| <= pi/4, to the last bit or two: no pole that stands goes further (fdlibm's, 1993). */
static inline Wide sine(Wide t)
{
    const Wide z = t * t;
    Wide r = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10;
    r = 2.75573137070700676789e-06 + z * r;
    r = -1.98412698298579493134e-04 + z * r;
    r = 8.33333333332248946124e-03 + z * r;
    r = -1.66666666666666324348e-01 + z * r;
    return t + t * z * r;
}

static inline Wide cosine(Wide t)
{
    const Wide z = t * t, half = 0.5 * z, one = 1.0 - half;
    Wide r = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11;
    r = -2.75573143513906633035e-07 + z * r;
    r = 2.48015872894767294178e-05 + z * r;
    r = -1.38888888888741095749e-03 + z * r;
    r = 4.16666666666666019037e-02 + z * r;
    return one + (((1.0 - one) - half) + z * z * r);
}

/* Wieland's equations: the change of (x, x', t1, t1', t2, t2') under forces in newton. */
static inline void change(int poles, const Wide *s, Wide force, Wide *d)
{
    static const double mass[2] = {0.1, 0.01}, half[2] = {0.5, 0.05};
    const double gravity = -9.8, friction = 2e-6;
    Wide sn[2], cs[2], turn[2], push = force, inertia = {0};
    for (int i = 0; i < poles; i++) {
        const Wide speed = s[3 + 2 * i];
        const double moment = half[i] * mass[i];
        sn[i] = sine(s[2 + 2 * i]);
        cs[i] = cosine(s[2 + 2 * i]);
        turn[i] = speed * (friction / moment);
        push += moment * speed * speed * sn[i] + 0.75 * mass[i] * cs[i] * (turn[i] + gravity * sn[i]);
        inertia += mass[i] * (1.0 - 0.75 * cs[i] * cs[i]);
    }
    const Wide cart = push / (inertia + 1.0);
    d[0] = s[1];
    d[1] = cart;
    for (int i = 0; i < poles; i++) {
        d[2 + 2 * i] = s[3 + 2 * i];
        d[3 + 2 * i] = (-0.75 / half[i]) * (cart * cs[i] + gravity * sn[i] + turn[i]);
    }
}

static inline void runge_kutta(int poles, Wide *s, Wide force)
{
    const int size = 2 + 2 * poles;
    const double h = 0.01;
    Wide a[STATE], b[STATE], c[STATE], d[STATE], t[STATE];
    change(poles, s, force, a);
    for (int i = 0; i < size; i++) t[i] = s[i] + 0.5 * h * a[i];
    change(poles, t, force, b);
    for (int i = 0; i < size; i++) t[i] = s[i] + 0.5 * h * b[i];
    change(poles, t, force, c);
    for (int i = 0; i < size; i++) t[i] = s[i] + h * c[i];
    change(poles, t, force, d);
    for (int i = 0; i < size; i++) s[i] = s[i] + h / 6.0 * (a[i] + 2.0 * b[i] + 2.0 * c[i] + d[i]);
}

static inline void push(int poles, Wide *s, Wide force)
{
    for (int half = 0; half < 2; half++) runge_kutta(poles, s, force);
}

/* Barto, Sutton and Anderson 1983 as Gymnasium writes it: explicit Euler, 0.02 s. */
static inline void cartpole(Wide *s, Wide force)
{
    const double gravity = 9.8, pole = 0.1, total = 0.1 + 1.0, length = 0.5, tau = 0.02;
    const double moment = pole * length;
    const Wide cs = cosine(s[2]), sn = sine(s[2]);
    const Wide temp = (force + moment * (s[3] * s[3]) * sn) / total;
    const Wide turn = (gravity * sn - cs * temp) / (length * (4.0 / 3.0 - pole * (cs * cs) / total));
    const Wide cart = temp - moment * turn * cs / total;
    s[0] = s[0] + tau * s[1];
    s[1] = s[1] + tau * cart;
    s[2] = s[2] + tau * s[3];
    s[3] = s[3] + tau * turn;
}

static inline void act(int64_t poles, Wide *s, Wide force)
{
    if (poles == 2) push(2, s, force);
    else if (poles == 1) push(1, s, force);
    else cartpole(s, force);
}

/* What a network's outputs push with: up to 10 N, and in CartPole-v1 one of two actions. */
static inline double force_of(const Game *g, const float *y, int64_t outputs)
{
    if (g->poles == 0) return (outputs == 1 ? y[0] > 0.5f : y[1] > y[0]) ? 10.0 : -10.0;
    const float share = y[0] < 0.0f ? 0.0f : y[0] > 1.0f ? 1.0f : y[0];
    return ((double)share - 0.5) * 20.0;
}

/* The numbers of the state that networks see, divided by their scales. */
static inline void scaled(const Game *g, const Wide *s, Wide *seen)
{
    for (int64_t i = 0; i < g->seen; i++) seen[i] = s[g->position[i]] / g->scale[i];
}

static inline void observe(const Game *g, const Wide *seen, int lane, float *x)
{
    for (int64_t i = 0; i < g->seen; i++) x[i] = (float)seen[i][lane];
    if (!isnan(g->bias)) x[g->seen] = (float)g->bias;
}

/* Written so that a state that is no number has fallen, too. */
static inline int stands(const Game *g, const Wide *s, int lane)
{
    const int upright = fabs(s[0][lane]) <= 2.4 && fabs(s[2][lane]) <= g->angle;
    return upright && (g->poles < 2 || fabs(s[4][lane]) <= g->angle);
}

/* One episode under way. */
typedef struct {
    int64_t item, step; /* item < 0: nothing */
    int64_t network;
    double ring[LAST];  /* how much the cart swayed in its last standing states */
    float *values;
} Lane;

static void begin(Lane *lane, int at, Wide *s, int64_t item, int64_t episodes, const double *starts, size_t slots)
{
    lane->item = item;
    lane->step = 0;
    lane->network = item / episodes;
    memset(lane->values, 0, slots * sizeof(float));
    for (int i = 0; i < STATE; i++) s[i][at] = starts[item % episodes * STATE + i];
}

static void rest(Lane *lane, int at, Wide *s)
{
    lane->item = -1;
    for (int i = 0; i < STATE; i++) s[i][at] = 0.0;
}

static double swayed(const Lane *lane, int64_t stood)
{
    double total = 0.0;
    for (int i = 0; i < LAST && i < stood; i++) total += lane->ring[i];
    return total;
}

/* Episodes `first` to `last` of networks x episodes, network by network; `starts` (episodes, 6). For each the steps up to
   and with the fall or the limit, whether it fell, and the swaying of its last 100 standing states. Returns 1 without memory. */
int poles_play(const Programs *p, const Game *g, const double *starts, int64_t episodes, int64_t first, int64_t last,
               int64_t *steps, uint8_t *fell, double *wobble)
{
    const size_t slots = (size_t)p->slots;
    float *memory = malloc(((LANES + 1) * slots + (size_t)p->outputs) * sizeof(float));
    if (!memory) return 1;
    float *scratch = memory + LANES * slots, *y = scratch + slots;
    Lane lanes[LANES];
    Wide s[STATE] = {0}, seen[STATE], force = {0};
    int64_t next = first, active = 0;
    for (int l = 0; l < LANES; l++) {
        lanes[l].values = memory + (size_t)l * slots;
        rest(lanes + l, l, s);
        if (next < last) {
            begin(lanes + l, l, s, next, episodes, starts, slots);
            next++;
            active++;
        }
    }
    while (active) {
        scaled(g, s, seen);
        for (int l = 0; l < LANES; l++) {
            if (lanes[l].item < 0) continue;
            observe(g, seen, l, lanes[l].values);
            for (int64_t i = 0; i < g->activations; i++)
                network_run(p, lanes[l].network, lanes[l].values, scratch, y);
            force[l] = force_of(g, y, p->outputs);
        }
        act(g->poles, s, force);
        for (int l = 0; l < LANES; l++) {
            Lane *lane = lanes + l;
            if (lane->item < 0) continue;
            const int down = !stands(g, s, l);
            if (!down) lane->ring[lane->step % LAST] = fabs(s[0][l]) + fabs(s[1][l]) + fabs(s[2][l]) + fabs(s[3][l]);
            if (++lane->step < g->limit && !down) continue;
            steps[lane->item] = lane->step;
            fell[lane->item] = (uint8_t)down;
            wobble[lane->item] = swayed(lane, lane->step - down);
            rest(lane, l, s);
            force[l] = 0.0;
            active--;
            if (next < last) {
                begin(lane, l, s, next, episodes, starts, slots);
                next++;
                active++;
            }
        }
    }
    free(memory);
    return 0;
}
