// SwiGLU's middle, of some numbers of each half.
#pragma once
#include "elements.cuh"
#include "ptx.cuh"

// silu(gate) * up, rounded to the elements' type before it is multiplied, as a tensor of its own would be.
template <int N> __device__ inline Vector<ELEMENT, N> gated(const Vector<ELEMENT, N>& gate, const Vector<ELEMENT, N>& up) {
    float silu[N], product[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float x = to_float(gate.at[i]);
        if constexpr (Same<ELEMENT, float>::value) silu[i] = x / (1 + expf(-x));
        else silu[i] = __fdividef(x, 1 + ptx::exp2(-1.44269504f * x));  // its error is far below a 16-bit rounding
    }
    const auto rounded = from_floats<ELEMENT>(silu);
#pragma unroll
    for (int i = 0; i < N; i++) product[i] = to_float(rounded.at[i]) * to_float(up.at[i]);
    return from_floats<ELEMENT>(product);
}
