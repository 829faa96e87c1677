// The types of items that kernels work on, by the names that Python gives them, and how 16-bit floats are read and
// written. It stands before every file of kernels, which needs nothing else: no header, so NVRTC finds all that it wants.
// With the few words of tests/kernel_prelude.h before it a C++ compiler makes functions of the kernels that run on the
// processor, which is how their arithmetic is tested without a GPU.

typedef bool b1;
typedef signed char i1;
typedef short i2;
typedef int i4;
typedef long long i8;
typedef unsigned char u1;
typedef unsigned short u2;
typedef unsigned int u4;
typedef unsigned long long u8;
typedef float f4;
typedef double f8;
struct f2 { unsigned short bits; };
struct bf2 { unsigned short bits; };
template <class Real> struct Complex { Real re, im; };
typedef Complex<f4> c8;
typedef Complex<f8> c16;
struct w16 { u8 low, high; };

// -- 16-bit floats are reckoned in float32 and rounded to the nearest, ties to even

#ifdef __CUDACC__
#define HPCML_ON_GPU
#endif
#ifdef __CUDACC_RTC__
#define HPCML_ON_GPU
#endif

#ifdef HPCML_ON_GPU
static inline __device__ f4 half_to_float(u2 bits) { f4 x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
static inline __device__ u2 float_to_half(f4 x) { u2 bits; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); return bits; }
static inline __device__ u4 bits_of(f4 x) { return __float_as_uint(x); }
static inline __device__ f4 float_of(u4 bits) { return __uint_as_float(bits); }
#endif

template <class T> static inline __device__ T wide(T x) { return x; }
static inline __device__ f4 wide(f2 x) { return half_to_float(x.bits); }
static inline __device__ f4 wide(bf2 x) { return float_of((u4)x.bits << 16); }

template <class T> struct Narrow { template <class W> static __device__ T from(W x) { return (T)x; } };
template <> struct Narrow<f2> { static __device__ f2 from(f4 x) { f2 y; y.bits = float_to_half(x); return y; } };
template <> struct Narrow<bf2> {
    static __device__ bf2 from(f4 x) {
        u4 bits = bits_of(x);
        bf2 y;
        y.bits = x != x ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        return y;
    }
};
template <class R> struct Narrow<Complex<R> > { static __device__ Complex<R> from(Complex<R> x) { return x; } };
