// The turn of rotary positions: element d of a head with element d + HEAD_DIM / 2.
#pragma once

// Each product is rounded: bit for bit the same wherever it is compiled.
__device__ __forceinline__ void turn(float& first, float& second, float cosine, float sine) {
    const float turned = __fmul_rn(first, cosine) - __fmul_rn(second, sine);
    second = __fmul_rn(second, cosine) + __fmul_rn(first, sine);
    first = turned;
}
