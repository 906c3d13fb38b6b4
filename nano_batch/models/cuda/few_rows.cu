// A linear layer for at most eight rows: as fast as the weight can be read. The weight's rows are the rows of the
// tensor cores' first matrix, x's rows the columns of their second.
//
// A block takes 16 rows of the weight; its warps take turns at chunks of 64 elements, 128 bytes of each row, STAGES of
// them on their way. A product sums over k in any order as long as both matrices have the same: lane 4 r + c loads
// elements 8 c to 8 c + 7 of a row in one access, and takes them for the columns that the instruction wants of it.
//
// Macro: ELEMENT, half or bf16.
#include "elements.cuh"
#include "ptx.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, ROWS = 16, COLUMNS = 8, CHUNK = 64, STAGES = 4;
constexpr bool IS_BF16 = Same<ELEMENT, bf16>::value;

// What a lane has of a chunk: two pieces of eight elements in each of three rows.
struct Chunk {
    uint4 upper[2], lower[2], x[2];

    __device__ __forceinline__ void multiply_add(float (&sum)[4]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned first[4] = {upper[i].x, lower[i].x, upper[i].y, lower[i].y}, first_x[2] = {x[i].x, x[i].y};
            const unsigned second[4] = {upper[i].z, lower[i].z, upper[i].w, lower[i].w}, second_x[2] = {x[i].z, x[i].w};
            ptx::multiply_add<IS_BF16>(sum, first, first_x);
            ptx::multiply_add<IS_BF16>(sum, second, second_x);
        }
    }
};

// The weight does not come from the kernel before this one, as a rule; the second-level cache holds what is true even
// where it does.
__device__ __forceinline__ void prefetch(const ELEMENT* weight, int first_row, int n, int k) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS * STAGES / 32; i++) {
        const int row = min(first_row + (lane + 32 * i) / STAGES, n - 1);
        const int at = ((lane + 32 * i) % STAGES * WARPS + warp) * CHUNK;
        if (at < k) ptx::prefetch(weight + static_cast<long long>(row) * k + at);
    }
}

// x [rows, k], weight [n, k] -> output [rows, n]; k is a multiple of 8, rows begin at multiples of 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 2) few_rows(
    const ELEMENT* x, long long x_stride, const ELEMENT* weight, ELEMENT* output, int rows, int n, int k) {
    __shared__ float sums[WARPS][ROWS * COLUMNS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_row = blockIdx.x * ROWS;
    // Rows past the last are read as the last; nobody writes their products.
    const ELEMENT* upper = weight + static_cast<long long>(min(first_row + lane / 4, n - 1)) * k;
    const ELEMENT* lower = weight + static_cast<long long>(min(first_row + lane / 4 + 8, n - 1)) * k;
    const ELEMENT* x_row = x + min(lane / 4, rows - 1) * x_stride;
    float sum[4] = {};
    ptx::let_later_start();
    prefetch(weight, first_row, n, k);
    ptx::wait_for_earlier();
    for (int from = warp * CHUNK; from < k; from += STAGES * WARPS * CHUNK) {
        Chunk chunks[STAGES] = {};
#pragma unroll
        for (int i = 0; i < 2 * STAGES; i++) {
            const int at = from + i / 2 * WARPS * CHUNK + i % 2 * (CHUNK / 2) + lane % 4 * 8;
            if (at >= k) continue;
            chunks[i / 2].upper[i % 2] = ptx::load_once(upper + at);
            chunks[i / 2].lower[i % 2] = ptx::load_once(lower + at);
            chunks[i / 2].x[i % 2] = *reinterpret_cast<const uint4*>(x_row + at);
        }
#pragma unroll
        for (int i = 0; i < STAGES; i++) chunks[i].multiply_add(sum);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][(lane % 4 * 2 + i % 2) * ROWS + lane / 4 + i / 2 * 8] = sum[i];
    __syncthreads();
    const int row = threadIdx.x / ROWS, column = first_row + threadIdx.x % ROWS;
    if (row >= rows || column >= n) return;
    float total = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) total += sums[i][threadIdx.x];
    output[static_cast<long long>(row) * n + column] = from_float<ELEMENT>(total);
}
