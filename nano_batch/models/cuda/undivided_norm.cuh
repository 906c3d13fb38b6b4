// RMSNorm of few rows without a kernel of its own: the product before it adds its sums to the residual (ADDS) and leaves the
// rows times the norm's weight, and the squares' sums of its tiles; the product after it divides its own sums (DIVIDES).
#pragma once
#include "tile.cuh"

static_assert(!ADDS || (SPLITS == 2 && PARTS == 1 && TILES == 1 && TOKENS % 16 == 0 && (!WEIGHT_FIRST || GROUPS == 1)));
static_assert(!DIVIDES || (PARTS == 1 && TOKENS <= 128 && !ADDS && !(WEIGHT_FIRST && SPLITS > 1)));

namespace {

#if ADDS
// What a thread of a cluster's block adds its sums to: words of two neighbours, whose rows are halved among the blocks.
struct Residual {
    static constexpr int WORDS = HALF / 2, ROWS = WEIGHT_FIRST ? WORDS / 2 : 1;
    using Word = Vector<ELEMENT, 2>;

    ELEMENT* at;
    const ELEMENT* norm;
    int row, rows, column, columns;  // of the first word
    Word before[WORDS], weight[WORDS];

    __device__ __forceinline__ int row_of(int word) const { return WEIGHT_FIRST ? row + word / 2 * 8 : row; }
    __device__ __forceinline__ int column_of(int word) const { return column + (WEIGHT_FIRST ? word % 2 : word) * 8; }
    __device__ __forceinline__ bool exists(int word) const { return row_of(word) < rows && column_of(word) < columns; }
    __device__ __forceinline__ long long place(int word) const {
        return static_cast<long long>(row_of(word)) * columns + column_of(word);
    }

    // Asks for the words of a warp whose rows of the first factor's tile begin with `own`; they are there when they are added.
    __device__ __forceinline__ Residual(ELEMENT* at, const ELEMENT* norm, int own, int half, int rows, int columns)
        : at(at), norm(norm), rows(rows), columns(columns) {
        const int lane = threadIdx.x % 32;
        row = (WEIGHT_FIRST ? half * (TOKENS / 2) : own + half * 8) + lane / 4;
        column = blockIdx.x * COLUMNS + (WEIGHT_FIRST ? own : 0) + lane % 4 * 2;
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            before[word].words[0] = weight[word].words[0] = 0;
            if (exists(word)) before[word].words[0] = __ldcg(reinterpret_cast<const unsigned*>(at + place(word)));
            if (column_of(word) < columns && (word < 2 || !WEIGHT_FIRST)) weight[word].load(norm + column_of(word));
        }
    }

    // Adds the sums, each rounded first as a tensor of its own would be. `squares` [rows]: of this tile; where warps have
    // columns of the same rows, `meeting` is where theirs meet.
    __device__ __forceinline__ void add(const float (&sum)[HALF], ELEMENT* output, float* squares, float* meeting) {
        float square[ROWS] = {};
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            Word added = from_floats<ELEMENT>({sum[2 * word], sum[2 * word + 1]});
            if constexpr (WEIGHT_FIRST) added.words[0] = ptx::transpose(added.words[0]);
            float now[2], next[2];
#pragma unroll
            for (int i = 0; i < 2; i++) now[i] = to_float(before[word].at[i]) + to_float(added.at[i]);
            const Word rounded = from_floats<ELEMENT>(now);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float x = to_float(rounded.at[i]);
                square[WEIGHT_FIRST ? word / 2 : 0] += x * x;
                next[i] = x * to_float(weight[WEIGHT_FIRST ? word % 2 : word].at[i]);
            }
            if (exists(word)) {
                rounded.store(at + place(word));
                from_floats<ELEMENT>(next).store(output + place(word));
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            square[i] += __shfl_xor_sync(~0u, square[i], 1);
            square[i] += __shfl_xor_sync(~0u, square[i], 2);
        }
        if constexpr (WEIGHT_FIRST) {
            const int first = row - threadIdx.x % 32 / 4, warp = threadIdx.x / 32;
            if (threadIdx.x % 4 == 0)
#pragma unroll
                for (int i = 0; i < ROWS; i++) meeting[warp * (TOKENS / 2) + row - first + i * 8] = square[i];
            hopper::meet<MULTIPLIERS>();
            for (int i = threadIdx.x; i < TOKENS / 2; i += MULTIPLIERS)
                if (first + i < rows)
                    squares[first + i] = meeting[i] + meeting[TOKENS / 2 + i] + meeting[TOKENS + i] + meeting[TOKENS * 3 / 2 + i];
        } else {
            if (threadIdx.x % 4 == 0 && row < rows) squares[row] = square[0];
        }
    }
};
#endif

#if DIVIDES
// By two warps: factors [TOKENS], what each row is to be multiplied with: one over the root of the mean of its squares, of
// which `squares` [tiles, x_rows] has the sums.
__device__ __forceinline__ void make_factors(int thread, float* factors, const float* squares, int tiles, int x_rows, int size,
                                             float eps) {
    const int quad = thread % 32 * 4;
    float4 sum = make_float4(0, 0, 0, 0);
    if (quad < x_rows) {
#pragma unroll (LENDS ? 2 : 4)
        for (int tile = thread / 32; tile < tiles; tile += 2) {
            const float4 one = __ldcg(reinterpret_cast<const float4*>(squares + tile * x_rows + quad));
            sum.x += one.x, sum.y += one.y, sum.z += one.z, sum.w += one.w;
        }
        if (thread >= 32) *reinterpret_cast<float4*>(factors + quad) = sum;
    }
    hopper::meet<64, 2>();
    if (thread < 32 && quad < x_rows) {
        float4* const to = reinterpret_cast<float4*>(factors + quad);
        const float4 others = *to;
        *to = make_float4(1 / sqrtf((sum.x + others.x) / size + eps), 1 / sqrtf((sum.y + others.y) / size + eps),
                          1 / sqrtf((sum.z + others.z) / size + eps), 1 / sqrtf((sum.w + others.w) / size + eps));
    }
}

// Divides the sums of a warp, whose rows of the first factor's tile begin with `own`, or what a cluster's block keeps of them.
template <int COUNT>
__device__ __forceinline__ void divide(float (&sum)[TILES][COUNT], const float* factors, int own, int half) {
    constexpr bool KEPT = COUNT < SECOND / 2;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int row = WEIGHT_FIRST ? i / 4 * 8 + lane % 4 * 2 + i % 2 : own + lane / 4 + tile * 64;
            sum[tile][i] *= factors[WEIGHT_FIRST ? row : row + (KEPT ? half : i / 2 % 2) * 8];
        }
}
#endif

}  // namespace
