// What the device does in a collective: fold arrays, and bring arrays of any layout side by side.
//
// Compiled for one type of item, and one operation, at a time: -DITEM=f4 -DOP=sum. Every kernel strides over its items by
// the whole grid, so that any grid is right.

#ifdef OP

// -- operations, with NumPy's meaning: a NaN wins in min and max, logical ones give 0 or 1

template <class T> static inline __device__ T sum(T a, T b) { return a + b; }
template <class R> static inline __device__ Complex<R> sum(Complex<R> a, Complex<R> b) {
    Complex<R> c = {a.re + b.re, a.im + b.im};
    return c;
}
template <class T> static inline __device__ T prod(T a, T b) { return a * b; }
template <class R> static inline __device__ Complex<R> prod(Complex<R> a, Complex<R> b) {
    Complex<R> c = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return c;
}
#ifndef HPCML_ON_GPU
#undef min
#undef max
#endif
#define min hpcml_min  // CUDA has functions of these names
#define max hpcml_max
template <class T> static inline __device__ T min(T a, T b) { return a < b || a != a ? a : b; }
template <class T> static inline __device__ T max(T a, T b) { return a > b || a != a ? a : b; }
template <class T> static inline __device__ T land(T a, T b) { return a && b; }
template <class T> static inline __device__ T lor(T a, T b) { return a || b; }
template <class T> static inline __device__ T lxor(T a, T b) { return !a != !b; }
template <class T> static inline __device__ T band(T a, T b) { return a & b; }
template <class T> static inline __device__ T bor(T a, T b) { return a | b; }
template <class T> static inline __device__ T bxor(T a, T b) { return a ^ b; }

static inline __device__ ITEM combined(ITEM a, ITEM b) { return Narrow<ITEM>::from(OP(wide(a), wide(b))); }

template <class T> static inline __device__ T over(T x, f8 divisor) { return x / (T)divisor; }
template <class R> static inline __device__ Complex<R> over(Complex<R> x, f8 divisor) {
    Complex<R> y = {x.re / (R)divisor, x.im / (R)divisor};  // part by part: a complex division would round twice
    return y;
}

const int MOST = 8;             // arrays that are read, and written, in one pass
const int LANE = 16;            // bytes that a thread reads at once
const int WIDTH = LANE / sizeof(ITEM) > 0 ? LANE / sizeof(ITEM) : 1;
struct __align__(16) Lane { ITEM item[WIDTH]; };

template <class Unit, int N>
static inline __device__ void folded(ITEM* const* to, int targets, ITEM* const* from, int sources, i8 first, i8 count, f8 divisor) {
    for (i8 i = first + blockIdx.x * (i8)blockDim.x + threadIdx.x; i < count; i += (i8)gridDim.x * blockDim.x) {
        Unit held[MOST];
#pragma unroll
        for (int s = 0; s < MOST; s++)
            if (s < sources) held[s] = ((const Unit*)from[s])[i];
        ITEM* total = (ITEM*)&held[0];
#pragma unroll
        for (int s = 1; s < MOST; s++)
            if (s < sources)
#pragma unroll
                for (int k = 0; k < N; k++) total[k] = combined(total[k], ((ITEM*)&held[s])[k]);
        if (divisor != 0)
#pragma unroll
            for (int k = 0; k < N; k++) total[k] = Narrow<ITEM>::from(over(wide(total[k]), divisor));
#pragma unroll
        for (int t = 0; t < MOST; t++)
            if (t < targets) ((Unit*)to[t])[i] = held[0];
    }
}

// The fold of `sources` arrays in their order, over `divisor` unless that is 0, written to each of `targets` arrays.
// An item is read and written by one thread, so that targets may be sources. The arrays may be other processes' memory.
extern "C" __global__ void fold(
    ITEM* t0, ITEM* t1, ITEM* t2, ITEM* t3, ITEM* t4, ITEM* t5, ITEM* t6, ITEM* t7, i8 targets,
    ITEM* s0, ITEM* s1, ITEM* s2, ITEM* s3, ITEM* s4, ITEM* s5, ITEM* s6, ITEM* s7, i8 sources, i8 count, f8 divisor) {
    ITEM* to[MOST] = {t0, t1, t2, t3, t4, t5, t6, t7};
    ITEM* from[MOST] = {s0, s1, s2, s3, s4, s5, s6, s7};
    u8 places = 0;
    for (int t = 0; t < MOST; t++) places |= (t < targets ? (u8)to[t] : 0) | (t < sources ? (u8)from[t] : 0);
    i8 lanes = places % LANE == 0 && sizeof(ITEM) <= LANE ? count / WIDTH : 0;
    folded<Lane, WIDTH>(to, (int)targets, from, (int)sources, 0, lanes, divisor);
    folded<ITEM, 1>(to, (int)targets, from, (int)sources, lanes * WIDTH, count, divisor);
}

#else

// -- layouts: items of any strides (in bytes), the last axis first, and the same items side by side

static inline __device__ i8 place(i8 i, const i8* lengths, const i8* strides) {
    i8 at = 0;
#pragma unroll
    for (int axis = 0; axis < 8; axis++) {
        at += i % lengths[axis] * strides[axis];
        i /= lengths[axis];
    }
    return at;
}

#define HPCML_AXES                                                                              \
    i8 n0, i8 n1, i8 n2, i8 n3, i8 n4, i8 n5, i8 n6, i8 n7, i8 s0, i8 s1, i8 s2, i8 s3, i8 s4, \
        i8 s5, i8 s6, i8 s7
#define HPCML_ARRAYS                                        \
    const i8 lengths[8] = {n0, n1, n2, n3, n4, n5, n6, n7}; \
    const i8 strides[8] = {s0, s1, s2, s3, s4, s5, s6, s7};

extern "C" __global__ void pack(ITEM* packed, const char* strided, i8 count, HPCML_AXES) {
    HPCML_ARRAYS
    for (i8 i = blockIdx.x * (i8)blockDim.x + threadIdx.x; i < count; i += (i8)gridDim.x * blockDim.x)
        packed[i] = *(const ITEM*)(strided + place(i, lengths, strides));
}

extern "C" __global__ void unpack(const ITEM* packed, char* strided, i8 count, HPCML_AXES) {
    HPCML_ARRAYS
    for (i8 i = blockIdx.x * (i8)blockDim.x + threadIdx.x; i < count; i += (i8)gridDim.x * blockDim.x)
        *(ITEM*)(strided + place(i, lengths, strides)) = packed[i];
}

// Integers as float64: NumPy's mean of them is that of float64.
extern "C" __global__ void widen(f8* to, const ITEM* from, i8 count) {
#ifdef INTEGER
    for (i8 i = blockIdx.x * (i8)blockDim.x + threadIdx.x; i < count; i += (i8)gridDim.x * blockDim.x) to[i] = (f8)from[i];
#endif
}

#endif
