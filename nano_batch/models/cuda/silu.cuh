// SwiGLU's middle, of one number of each half.
#pragma once
#include "elements.cuh"
#include "ptx.cuh"

// silu(gate) * up, rounded to the elements' type before it is multiplied, as a tensor of its own would be.
__device__ inline ELEMENT gated(float gate, float up) {
    float silu;
    if constexpr (Same<ELEMENT, float>::value) silu = gate / (1 + expf(-gate));
    else silu = __fdividef(gate, 1 + ptx::exp2(-1.44269504f * gate));  // its error is far below a 16-bit rounding
    return from_float<ELEMENT>(to_float(from_float<ELEMENT>(silu)) * up);
}
