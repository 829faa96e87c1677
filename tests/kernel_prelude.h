// What a C++ compiler needs before a file of CUDA kernels to make functions of them that run on the processor: one
// thread, which strides over all items. It includes nothing, so that compiling takes no time.

#define __global__
#define __device__
#define __align__(n) alignas(n)
#define __forceinline__ inline
#define sqrt __builtin_sqrt
#define sqrtf __builtin_sqrtf

struct Index { int x; };
static const Index blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};

static inline unsigned int bits_of(float x) { unsigned int bits; __builtin_memcpy(&bits, &x, 4); return bits; }
static inline float float_of(unsigned int bits) { float x; __builtin_memcpy(&x, &bits, 4); return x; }

static inline float half_to_float(unsigned short half) {
    unsigned int sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    float x = exponent ? float_of((exponent + 112) << 23 | fraction << 13) : fraction * float_of(103 << 23);  // 2^-24
    return float_of(sign | bits_of(x));
}

static inline unsigned short float_to_half(float x) {
    unsigned int bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;                                        // rounds to infinity
    if (size < 0x38800000) return sign | (unsigned short)(bits_of(float_of(size) + 0.5f) - 0x3f000000);  // subnormal
    size += 0xc8000fff + (size >> 13 & 1);
    return sign | size >> 13;
}
