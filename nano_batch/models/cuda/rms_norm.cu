// RMSNorm of rows, after the residual is added, or after they are looked up in a table. A block takes a row, and keeps it in
// registers between its two passes where VECTORS of each thread hold it.
//
// Macros: ELEMENT, the type of all tensors; VEC, elements of a vector; RESIDUAL, whether there is one; THREADS of a block;
// VECTORS of a thread, 0 for rows of any length; PARTS, in which what is added to the residual comes; EMBEDS: the rows are a
// table's, and the residual gets them.
#include "elements.cuh"
#include "ptx.cuh"

constexpr bool KEPT = VECTORS > 0;
constexpr int AT_ONCE = KEPT ? VECTORS : 1;
constexpr int WARPS = THREADS / 32;
using Elements = Vector<ELEMENT, VEC>;
static_assert((PARTS == 1 || RESIDUAL) && !(RESIDUAL && EMBEDS));

// A thread's vectors of a row, those at `from` + (threadIdx.x + i * THREADS) * VEC.
struct Piece {
    Elements of[AT_ONCE];

    __device__ static int at(int from, int i) { return from + (i * THREADS + threadIdx.x) * VEC; }
    __device__ void load(const ELEMENT* row, int from, int hidden) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (at(from, i) < hidden) of[i].load(row + at(from, i));
    }
    __device__ void store(ELEMENT* row, int from, int hidden) const {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (at(from, i) < hidden) of[i].store(row + at(from, i));
    }
    // The sum of this one and all parts of another, rounded once.
    __device__ void add(const Piece (&parts)[PARTS]) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float sum[VEC];
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                sum[j] = to_float(parts[0].of[i].at[j]);
#pragma unroll
                for (int part = 1; part < PARTS; part++) sum[j] += to_float(parts[part].of[i].at[j]);
                sum[j] += to_float(of[i].at[j]);
            }
            of[i] = from_floats<ELEMENT>(sum);
        }
    }
    __device__ float squares(int from, int hidden) const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (at(from, i) < hidden)
#pragma unroll
                for (int j = 0; j < VEC; j++) sum += to_float(of[i].at[j]) * to_float(of[i].at[j]);
        return sum;
    }
    __device__ void scale(float factor, const Piece& weight) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float scaled[VEC];
#pragma unroll
            for (int j = 0; j < VEC; j++) scaled[j] = to_float(of[i].at[j]) * factor * to_float(weight.of[i].at[j]);
            of[i] = from_floats<ELEMENT>(scaled);
        }
    }
};

// The sum over the block's threads, in all of them.
__device__ inline float sum_of_block(float x) {
    __shared__ float sums[WARPS];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < WARPS ? sums[threadIdx.x % 32] : 0;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    return x;
}

// hidden [PARTS, tokens, size], the parts `apart` from each other, residual [tokens, size], weight [size] ->
// output [tokens, size], contiguous; one block a token. EMBEDS: hidden [table_rows, size], ids [tokens]; of a row that is not
// there the output is NaN.
extern "C" __global__ void __launch_bounds__(THREADS, 1) rms_norm(
    const ELEMENT* hidden, long long hidden_stride, long long apart, const long long* ids, int table_rows, ELEMENT* residual,
    long long residual_stride, const ELEMENT* weight, ELEMENT* output, int size, float eps) {
    const long long token = blockIdx.x;
    ELEMENT* sum_row = residual + token * residual_stride;
    ELEMENT* output_row = output + token * size;
    constexpr int STEP = AT_ONCE * THREADS * VEC;
    Piece piece = {}, factors = {};
    ptx::let_later_start();
    ptx::wait_for_earlier();
    const long long id = EMBEDS ? ids[token] : token;
    const bool exists = !EMBEDS || (id >= 0 && id < table_rows);
    const ELEMENT* row = hidden + (exists ? id : 0) * hidden_stride;
    float squares = exists ? 0 : nanf("");
    for (int from = 0; from < size; from += STEP) {
        piece.load(RESIDUAL ? sum_row : row, from, size);
#if RESIDUAL
        Piece parts[PARTS] = {};
#pragma unroll
        for (int part = 0; part < PARTS; part++) parts[part].load(row + part * apart, from, size);
#endif
        if (KEPT) factors.load(weight, from, size);  // on its way with the others
#if RESIDUAL
        piece.add(parts);
#endif
        if (RESIDUAL || EMBEDS) piece.store(sum_row, from, size);
        squares += piece.squares(from, size);
        if (KEPT) break;
    }
    const float factor = 1 / sqrtf(sum_of_block(squares) / size + eps);
    for (int from = 0; from < size; from += STEP) {
        if (!KEPT) {
            piece.load(RESIDUAL || EMBEDS ? sum_row : row, from, size);  // what this thread itself has written
            factors.load(weight, from, size);
        }
        piece.scale(factor, factors);
        piece.store(output_row, from, size);
        if (KEPT) break;
    }
}
