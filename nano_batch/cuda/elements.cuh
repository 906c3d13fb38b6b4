// Elements of keys, values and queries as they lie in memory, and vectors of them in one access.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

using bf16 = __nv_bfloat16;
using fp8 = __nv_fp8_e4m3;

template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };
template <bool FIRST, class A, class B> struct Either { using type = A; };
template <class A, class B> struct Either<false, A, B> { using type = B; };

template <int BYTES> struct Access;
template <> struct Access<1> { using type = unsigned char; };
template <> struct Access<2> { using type = unsigned short; };
template <> struct Access<4> { using type = unsigned int; };
template <> struct Access<8> { using type = uint2; };
template <> struct Access<16> { using type = uint4; };

// N elements, moved in accesses of at most 16 bytes.
template <class T, int N> union Vector {
    static constexpr int BYTES = sizeof(T) * N < 16 ? int(sizeof(T) * N) : 16;
    static constexpr int ACCESSES = sizeof(T) * N / BYTES;
    using Word = typename Access<BYTES>::type;
    T at[N];
    Word words[ACCESSES];

    __device__ void load(const T* from) {
#pragma unroll
        for (int i = 0; i < ACCESSES; i++) words[i] = reinterpret_cast<const Word*>(from)[i];
    }
    __device__ void store(T* to) const {
#pragma unroll
        for (int i = 0; i < ACCESSES; i++) reinterpret_cast<Word*>(to)[i] = words[i];
    }
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(half x) { return __half2float(x); }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(fp8 x) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.__x, __NV_E4M3))); }

// Rounded to nearest, ties to even; fp8 ends at 448 instead of becoming NaN.
template <class T> __device__ T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline half from_float<half>(float x) { return __float2half_rn(x); }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline fp8 from_float<fp8>(float x) {
    fp8 result;
    result.__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    return result;
}

// Two numbers as 16-bit elements in a register, the first in the lower half.
template <bool is_bf16> __device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned packed;
    if constexpr (is_bf16) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        memcpy(&packed, &pair, 4);
    } else {
        const __half2 pair = __floats2half2_rn(low, high);
        memcpy(&packed, &pair, 4);
    }
    return packed;
}

// All of them, rounded by twos where there is an instruction for it: a single one goes through the few units that compute
// exponentials, too.
template <class T, int N> __device__ inline Vector<T, N> from_floats(const float (&x)[N]) {
    Vector<T, N> all;
    if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const unsigned two = pack<Same<T, bf16>::value>(x[i], x[i + 1]);
            memcpy(&all.at[i], &two, 4);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) all.at[i] = from_float<T>(x[i]);
    }
    return all;
}

// Lanes 2 i and 2 i + 1 have two neighbours each, of 16 bits, of eight columns, `here`, and of eight others, `there`. The
// first gets four of the first eight, the `second` those of the others.
__device__ inline uint2 exchanged(unsigned here, unsigned there, bool second) {
    const unsigned got = __shfl_xor_sync(~0u, second ? here : there, 1);
    return second ? make_uint2(got, there) : make_uint2(here, got);
}

// An element as the cache stores it, x / scale, and back; the same bits where the types are the same.
template <class To, class From> __device__ To stored_as(From x, float scale) {
    if constexpr (Same<To, From>::value) return x;
    else return from_float<To>(to_float(x) / scale);
}
template <class To, class From> __device__ To read_as(From x, float scale) {
    if constexpr (Same<To, From>::value) return x;
    else return from_float<To>(to_float(x) * scale);
}
