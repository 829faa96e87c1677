// The update rules on the device, as those of hpcml.optim.sgd and hpcml.optim.adam: all parameters in one kernel.
//
// -DREAL: of the arithmetic, theta and state; -DGRAD: of gradients; -DSHORT: of the rounded copy of theta, where there is
// one. A table has a row for each parameter, whose words are addresses (theta, short, gradient, two slots) and the number
// of items. A parameter is cut into chunks, each of which one block does: the parameter's row, and the first item.

const i8 CHUNK = 8192;
const int WORDS = 6;
const int LANE = 4;  // items that a thread reads at once, where all arrays begin on a multiple of 16 bytes
struct __align__(sizeof(REAL) * LANE > 16 ? 16 : sizeof(REAL) * LANE) Reals { REAL item[LANE]; };
struct __align__(sizeof(GRAD) * LANE > 16 ? 16 : sizeof(GRAD) * LANE) Grads { GRAD item[LANE]; };

static inline __device__ f4 root(f4 x) { return sqrtf(x); }
static inline __device__ f8 root(f8 x) { return sqrt(x); }

// One item: gradient g, parameter t, state m and v, all in registers.
struct Plain {
    static const int SLOTS = 0;
    REAL lr, decay;
    __device__ void step(REAL& t, REAL g, REAL&, REAL&) const {
        if (decay != 0) g += decay * t;
        t -= lr * g;
    }
};

struct Momentum {
    static const int SLOTS = 1;
    REAL lr, decay, keep, take, lookahead;
    __device__ void step(REAL& t, REAL g, REAL& velocity, REAL&) const {
        if (decay != 0) g += decay * t;
        REAL v = keep * velocity + take * g;
        velocity = v;
        if (lookahead != 0) v = g + lookahead * v;
        t -= lr * v;
    }
};

struct Adam {
    static const int SLOTS = 2;
    REAL shrink, decay, beta1, weight1, beta2, weight2, correction, eps, size;
    __device__ void step(REAL& t, REAL g, REAL& m, REAL& v) const {
        t *= shrink;
        if (decay != 0) g += decay * t;
        m = weight1 < (REAL)0.5 ? m + weight1 * (g - m) : g - (g - m) * beta1;
        v = beta2 * v + weight2 * g * g;
        t -= size * m / (root(v) / correction + eps);
    }
};

template <class Rule>
static inline __device__ void update(const i8* table, const i8* chunks, i8 count, REAL factor, Rule rule) {
    for (i8 c = blockIdx.x; c < count; c += gridDim.x) {
        const i8* row = table + chunks[2 * c] * WORDS;
        i8 first = chunks[2 * c + 1], last = row[5] < first + CHUNK ? row[5] : first + CHUNK;
        REAL* theta = (REAL*)row[0];
        const GRAD* gradient = (const GRAD*)row[2];
        REAL *m = (REAL*)row[3], *v = (REAL*)row[4];
        i8 whole = (row[0] | row[2] | row[3] | row[4]) % 16 == 0 ? first + (last - first) / LANE * LANE : first;
        for (i8 i = first + threadIdx.x * LANE; i < whole; i += blockDim.x * LANE) {
            Reals t = *(Reals*)(theta + i), slot[2];
            Grads g = *(const Grads*)(gradient + i);
            if (Rule::SLOTS > 0) slot[0] = *(Reals*)(m + i);
            if (Rule::SLOTS > 1) slot[1] = *(Reals*)(v + i);
#pragma unroll
            for (int k = 0; k < LANE; k++)
                rule.step(t.item[k], factor * (REAL)wide(g.item[k]), slot[0].item[k], slot[1].item[k]);
            *(Reals*)(theta + i) = t;
            if (Rule::SLOTS > 0) *(Reals*)(m + i) = slot[0];
            if (Rule::SLOTS > 1) *(Reals*)(v + i) = slot[1];
#ifdef SHORT
            for (int k = 0; k < LANE; k++) ((SHORT*)row[1])[i + k] = Narrow<SHORT>::from((f4)t.item[k]);
#endif
        }
        for (i8 i = whole + threadIdx.x; i < last; i += blockDim.x) {
            REAL none = 0;
            rule.step(theta[i], factor * (REAL)wide(gradient[i]), Rule::SLOTS > 0 ? m[i] : none, Rule::SLOTS > 1 ? v[i] : none);
#ifdef SHORT
            ((SHORT*)row[1])[i] = Narrow<SHORT>::from((f4)theta[i]);
#endif
        }
    }
}

extern "C" __global__ void plain(const i8* table, const i8* chunks, i8 count, f8 factor, f8 lr, f8 decay) {
    Plain rule = {(REAL)lr, (REAL)decay};
    update(table, chunks, count, (REAL)factor, rule);
}

extern "C" __global__ void momentum(
    const i8* table, const i8* chunks, i8 count, f8 factor, f8 lr, f8 decay, f8 keep, f8 take, f8 lookahead) {
    Momentum rule = {(REAL)lr, (REAL)decay, (REAL)keep, (REAL)take, (REAL)lookahead};
    update(table, chunks, count, (REAL)factor, rule);
}

extern "C" __global__ void adam(
    const i8* table, const i8* chunks, i8 count, f8 factor, f8 shrink, f8 decay, f8 beta1, f8 weight1, f8 beta2, f8 weight2,
    f8 correction, f8 eps, f8 size) {
    Adam rule = {(REAL)shrink, (REAL)decay, (REAL)beta1, (REAL)weight1, (REAL)beta2, (REAL)weight2, (REAL)correction, (REAL)eps, (REAL)size};
    update(table, chunks, count, (REAL)factor, rule);
}

// place ← weight·gradient, or added to it: how gradients are put together in a message.
extern "C" __global__ void weigh(REAL* place, const GRAD* gradient, i8 count, f8 weight, i8 fresh) {
    for (i8 i = blockIdx.x * (i8)blockDim.x + threadIdx.x; i < count; i += (i8)gridDim.x * blockDim.x) {
        REAL number = (REAL)weight * (REAL)wide(gradient[i]);
        place[i] = fresh ? number : place[i] + number;
    }
}
