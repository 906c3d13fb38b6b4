// SwiGLU's middle: silu(gate) * up.
//
// Macros: ELEMENT, the type of both tensors; VEC, elements of a vector; THREADS of a block; VECTORS of a thread.
#include "elements.cuh"
#include "ptx.cuh"
#include "silu.cuh"

using Elements = Vector<ELEMENT, VEC>;

// gate_up [tokens, 2 * lanes * VEC], gate first -> output [tokens, lanes * VEC], contiguous.
extern "C" __global__ void __launch_bounds__(THREADS) silu_mul(
    const ELEMENT* gate_up, long long stride, ELEMENT* output, unsigned lanes, unsigned count) {  // count = tokens * lanes
    Elements gate[VECTORS] = {}, up[VECTORS] = {};
    const unsigned first = blockIdx.x * (VECTORS * THREADS) + threadIdx.x;
    ptx::let_later_start();
    ptx::wait_for_earlier();
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const unsigned at = first + i * THREADS;
        if (at >= count) continue;
        const ELEMENT* from = gate_up + at / lanes * stride + at % lanes * VEC;
        gate[i].load(from);
        up[i].load(from + static_cast<long long>(lanes) * VEC);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const unsigned at = first + i * THREADS;
        if (at >= count) continue;
        gated(gate[i], up[i]).store(output + static_cast<long long>(at) * VEC);
    }
}
