// A linear layer for up to TOKENS rows of x, at the speed at which the weight can be read, on Hopper.
//
// A block takes all rows of x and a tile of COLUMNS rows of the weight, then the tile gridDim.x further on, or SPLITS
// blocks each of PARTS clusters take one tile, a part of k each. Two warps have chunks copied to shared memory, one the
// weight's, one x's, STAGES on their way. The weight's first chunks do not wait for the kernel before this one; and the
// kernel after it may start when this one has asked for its last. A cluster's sums meet in shared memory, each block finishing
// its part of the columns; those of several clusters are left as they are, for the next kernel to add.
//
// Macros: those of tile.cuh; SPLITS; PARTS.
#include "tile.cuh"

// Two warps copy. Where threads have too few registers, the warps that copy give theirs, four at a time.
constexpr bool LENDS = GROUPS == 3 || (WEIGHT_FIRST && GATED);
constexpr int THREADS = MULTIPLIERS + (LENDS ? 128 : 64);
// Cycles from one of a block's first chunks of the weight to the next. Blocks for few rows begin while the kernel before them
// still reads, and what it asks for would wait behind all of their stages. Those for more begin when it has ended.
constexpr int APART = TOKENS > 64 ? 0 : 800;
constexpr int SUM_ROW = COLUMNS + 8;  // of the sums of a token, so that warps write them without conflicts
using Result = Either<PARTS == 1, ELEMENT, float>::type;
static_assert(SPLITS == 1 || TOKENS * SUM_ROW * 4 <= STAGES * STAGE_BYTES);
static_assert(SPLITS == 1 || COLUMNS % (4 * SPLITS) == 0);
static_assert(!GATED || SPLITS * PARTS == 1);
static_assert(!WEIGHT_FIRST || GATED || PARTS > 1);

namespace {

// What of k this block takes, in chunks.
struct Chunks {
    int first, count;
};

__device__ __forceinline__ void copy_weight(Ring ring, const TensorMap& map, Chunks chunks, int out_n, int x_bytes,
                                            bool overlapped) {
    const bool one = hopper::elected();
    const long long start = clock64();
    for (int column = blockIdx.x * OUT_COLUMNS; column < out_n; column += gridDim.x * OUT_COLUMNS)
        for (int chunk = 0; chunk < chunks.count; chunk++, ring.next()) {
            ring.wait_until_empty();
            if (!one) continue;
            if (APART > 0 && ring.filled <= STAGES)
                while (clock64() - start < (ring.filled - 1) * APART) {}
            ring.full[ring.stage].expect(WEIGHT_BYTES + x_bytes);
            hopper::load_panels<true>(ring.weight(), map, column, (chunks.first + chunk) * PANELS, ring.full[ring.stage]);
        }
    if (overlapped) ptx::let_later_start();
}

__device__ __forceinline__ void copy_x(Ring ring, const TensorMap& map, Chunks chunks, int out_n) {
    const bool one = hopper::elected();
    ptx::wait_for_earlier();
    for (int column = blockIdx.x * OUT_COLUMNS; column < out_n; column += gridDim.x * OUT_COLUMNS)
        for (int chunk = 0; chunk < chunks.count; chunk++, ring.next()) {
            ring.wait_until_empty();
            if (one) hopper::load_panels<false>(ring.x(), map, 0, (chunks.first + chunk) * PANELS, ring.full[ring.stage]);
        }
}

// As `store` in tile.cuh, unrounded.
__device__ __forceinline__ void store(const float (&sum)[COLUMNS / 2], float* output, int row, int rows, int column, int columns,
                                      int pitch) {
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i += 2) {
        const int to_row = row + i / 2 % 2 * 8, to = column + i / 4 * 8 + threadIdx.x % 4 * 2;
        if (to_row < rows && to < columns)
            *reinterpret_cast<float2*>(output + static_cast<long long>(to_row) * pitch + to) = make_float2(sum[i], sum[i + 1]);
    }
}

__device__ __forceinline__ void store(const Sums& sum, float* output, int rows, int column, int columns, int pitch) {
#pragma unroll
    for (int i = 0; i < TOKENS / 2; i++) {
        const int row = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2, to = column + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
        if (row < rows && to < columns) output[static_cast<long long>(row) * pitch + to] = sum[0][i];
    }
}

// Stores the sums of a warp, whose rows of the first factor's tile begin with `own`.
template <class To>
__device__ __forceinline__ void store_all(const Sums& sum, To* to, int own, int rows, int column, int columns, int pitch) {
    if constexpr (WEIGHT_FIRST) {
        const bool others = threadIdx.x >= 128 && own < 64;  // the first warpgroup has them, too
        if (!others) store(sum, to, rows, column + own, columns, pitch);
    } else {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            store(sum[tile], to, own + threadIdx.x % 32 / 4 + tile * 64, rows, column, columns, pitch);
    }
}

// Adds the sums of all blocks of the cluster, in their order, and stores this block's part of the columns.
__device__ __forceinline__ void finish(const float* sums, Result* output, int rows, int out_n) {
    constexpr int OWN = COLUMNS / SPLITS, QUADS = OWN / 4;
#pragma unroll 4
    for (int i = threadIdx.x; i < rows * QUADS; i += THREADS) {
        const int token = i / QUADS, place = blockIdx.y % SPLITS * OWN + i % QUADS * 4, column = blockIdx.x * COLUMNS + place;
        float4 parts[SPLITS];
#pragma unroll
        for (int block = 0; block < SPLITS; block++) parts[block] = hopper::read_of_block(sums + token * SUM_ROW + place, block);
        float4 all = parts[0];
#pragma unroll
        for (int block = 1; block < SPLITS; block++)
            all.x += parts[block].x, all.y += parts[block].y, all.z += parts[block].z, all.w += parts[block].w;
        const auto result = from_floats<Result>({all.x, all.y, all.z, all.w});
        if (column < out_n) result.store(output + static_cast<long long>(token) * out_n + column);
    }
}

}  // namespace

// weight [n, k] in tiles of COLUMNS rows, x [rows, k] in one of `x_rows`, the next multiple of 8; both of PANELS panels.
// output [rows, n], or n / 2 where GATED; a multiple of 4; float32 [PARTS, rows, n] where there are several. overlapped:
// whether the kernel after this one may start before its end. Blocks: any number in x, where k is split as many as there
// are tiles; SPLITS times PARTS in y.
extern "C" __global__ void __cluster_dims__(1, SPLITS, 1) __launch_bounds__(THREADS, 1)
    few_rows_hopper(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap x_map,
                    Result* output, int rows, int x_rows, int out_n, int k, int overlapped) {
    extern __shared__ unsigned char unaligned[];
    __shared__ hopper::Barrier full[STAGES], empty[STAGES];
    Ring ring{hopper::aligned(unaligned), full, empty};
    const int all = (k + CHUNK - 1) / CHUNK, first_chunk = all * blockIdx.y / gridDim.y, x_panel = x_rows * ROW_BYTES;
    const Chunks chunks{first_chunk, static_cast<int>(all * (blockIdx.y + 1) / gridDim.y) - first_chunk};
    output += static_cast<long long>(blockIdx.y / SPLITS) * rows * out_n;
    float* sums = reinterpret_cast<float*>(ring.stages);  // [TOKENS, SUM_ROW], when all stages are read
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(GROUPS);
        hopper::barriers_are_ready();
    }
    __syncthreads();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the compiler sees that it is the same for all lanes
    if (warp >= MULTIPLIERS / 32) {
        if constexpr (LENDS) hopper::give_registers<24>();
        if (warp == MULTIPLIERS / 32) copy_weight(ring, weight_map, chunks, out_n, PANELS * x_panel, overlapped);
        else if (warp == MULTIPLIERS / 32 + 1) copy_x(ring, x_map, chunks, out_n);
    } else {
        if constexpr (LENDS) hopper::take_registers<GROUPS == 3 ? 160 : 240>();
        // Without a chunk no barrier makes it wait, and the kernel before may still use what it stores to.
        if (chunks.count == 0) ptx::wait_for_earlier();
        const int first = warp / 4 * GROUP_ROWS, own = first + warp % 4 * 16;  // rows of the first factor
        for (int column = blockIdx.x * OUT_COLUMNS; column < out_n; column += gridDim.x * OUT_COLUMNS) {
            Sums sum = {};
            if (WEIGHT_FIRST || TILES == 1 || first + 64 < rows) multiply<TILES>(sum, ring, chunks.count, first, x_panel);
            else multiply<1>(sum, ring, chunks.count, first, x_panel);
            if constexpr (SPLITS > 1) {
                hopper::meet<MULTIPLIERS>();
                store_all(sum, sums, own, TOKENS, 0, COLUMNS, SUM_ROW);
            } else store_all(sum, output, own, rows, column, out_n, out_n);
        }
    }
    if constexpr (SPLITS > 1) {
        __syncwarp();
        hopper::meet_cluster();
        finish(sums, output, rows, out_n);
        __syncwarp();
        hopper::leave_cluster();
    }
}
