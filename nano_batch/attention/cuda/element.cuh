// The element types of attention's queries and outputs, and what its kernels do with pairs of 16-bit elements.
#pragma once
#include "elements.cuh"
#include "turn.cuh"

// ELEMENT: 0 float16, 1 bfloat16, 2 float32. FP8: the cache holds e4m3.
#if ELEMENT == 0
using Element = half;
#elif ELEMENT == 1
using Element = bf16;
#else
using Element = float;
#endif

// The two 16-bit elements of a register, as a query holds them.
__device__ __forceinline__ float2 floats_of(unsigned packed) {
    Element pair[2];
    memcpy(pair, &packed, 4);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

// Turns two neighbours of the first half of the dimensions, and the same of the second, each pair in a register.
__device__ __forceinline__ void turn_words(unsigned& first, unsigned& second, float2 cosine, float2 sine) {
    constexpr bool is_bf16 = Same<Element, bf16>::value;
    float2 left = floats_of(first), right = floats_of(second);
    turn(left.x, right.x, cosine.x, sine.x);
    turn(left.y, right.y, cosine.y, sine.y);
    first = pack<is_bf16>(left.x, left.y), second = pack<is_bf16>(right.x, right.y);
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

// Two e4m3 numbers, the lower bytes of `pair`, as float16, exactly.
__device__ __forceinline__ unsigned halves_of_fp8(unsigned pair) {
    unsigned halves;
#if __CUDA_ARCH__ >= 890
    const __half2_raw both = __nv_cvt_fp8x2_to_halfraw2(static_cast<unsigned short>(pair), __NV_E4M3);
    memcpy(&halves, &both, 4);
#else
    // No instruction does it: an e4m3 number's bits, one place further down, are a float16 of 1/256 of its value, for the
    // exponents' biases differ by 8. A NaN comes out as 480.
    const unsigned apart = __byte_perm(pair, 0, 0x1404);
    halves = (apart & 0x80008000u) | ((apart >> 1) & 0x3f803f80u);
    __half2 both;
    memcpy(&both, &halves, 4);
    both = __hmul2(both, __float2half2_rn(256));
    memcpy(&halves, &both, 4);
#endif
    return halves;
}
