// The element types of the decode kernels' queries and outputs, and what they do with pairs of 16-bit elements.
#pragma once
#include "elements.cuh"

// ELEMENT: 0 float16, 1 bfloat16, 2 float32. FP8: the cache holds e4m3.
#if ELEMENT == 0
using Element = half;
#elif ELEMENT == 1
using Element = bf16;
#else
using Element = float;
#endif

// Two 16-bit elements in a register, the first in the lower half.
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

// Word i of four.
__device__ __forceinline__ unsigned word(const uint4& x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

// Stores four neighbours, times `unit`.
__device__ __forceinline__ void store_four(float* to, const float4& x, float unit) {
    *reinterpret_cast<float4*>(to) = make_float4(x.x * unit, x.y * unit, x.z * unit, x.w * unit);
}
template <class T> __device__ __forceinline__ void store_four(T* to, const float4& x, float unit) {
    constexpr bool is_bf16 = Same<T, bf16>::value;
    *reinterpret_cast<uint2*>(to) = make_uint2(pack<is_bf16>(x.x * unit, x.y * unit), pack<is_bf16>(x.z * unit, x.w * unit));
}

// The second and fourth byte of `bytes`, e4m3 numbers, as float16 of 1/256 of their values, exactly: the exponents'
// biases differ by 8. A float8 NaN comes out as 480 / 256.
constexpr float FP8_UNIT = 256;
__device__ __forceinline__ unsigned halves_of_fp8(unsigned bytes) {
    return (bytes & 0x80008000u) | ((bytes >> 1) & 0x3f803f80u);
}
