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
using Result = Either<PARTS == 1, ELEMENT, float>::type;
// Of a thread's sums of a tile, half: of its columns, or with the weight's rows first of x's rows.
constexpr int HALF = SECOND / 4;
static_assert(SPLITS == 1 || (SPLITS == 2 && HALF % 4 == 0 && MULTIPLIERS * TILES * HALF * 4 <= STAGES * STAGE_BYTES));
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
template <int COUNT>
__device__ __forceinline__ void store(const float (&sum)[COUNT], float* output, int row, int rows, int column, int columns,
                                      int pitch) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
        const int to_row = row + i / 2 % 2 * 8, to = column + i / 4 * 8 + threadIdx.x % 4 * 2;
        if (to_row < rows && to < columns)
            *reinterpret_cast<float2*>(output + static_cast<long long>(to_row) * pitch + to) = make_float2(sum[i], sum[i + 1]);
    }
}

template <int COUNT>
__device__ __forceinline__ void store_turned(const float (&sum)[COUNT], float* output, int first, int rows, int column,
                                             int columns, int pitch) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const int row = first + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2, to = column + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
        if (row < rows && to < columns) output[static_cast<long long>(row) * pitch + to] = sum[i];
    }
}

// Stores the sums of a warp, whose rows of the first factor's tile begin with `own`, or the half of them that is this
// block's of a cluster.
template <int COUNT>
__device__ __forceinline__ void store_all(const float (&sum)[TILES][COUNT], Result* output, int own, int half, int rows,
                                          int column, int columns) {
    if constexpr (WEIGHT_FIRST) {
        const bool others = threadIdx.x >= 128 && own < 64;  // the first warpgroup has them, too
        if (others) return;
        if constexpr (GATED) store(sum, output, rows, column + own, columns, columns);
        else store_turned(sum[0], output, half * (TOKENS / 2), rows, column + own, columns, columns);
    } else {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            store(sum[tile], output, own + threadIdx.x % 32 / 4 + tile * 64, rows, column + half * (COLUMNS / 2), columns,
                  columns);
    }
}

// Adds the sums of the cluster's two blocks: each thread sends half of its own to the same thread of the other block, into
// a place of its own there, and keeps the rest.
__device__ __forceinline__ void add_halves(float (&kept)[TILES][HALF], const Sums& sum, int half, unsigned char* memory,
                                           hopper::Barrier& arrived) {
    float4* place = reinterpret_cast<float4*>(memory) + threadIdx.x;  // the next is MULTIPLIERS further on
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < HALF; i += 4) {
            float sent[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float low = sum[tile][i + j], high = sum[tile][HALF + i + j];
                kept[tile][i + j] = half ? high : low;
                sent[j] = half ? low : high;
            }
            hopper::send_to_block(1 - half, place + (tile * HALF + i) / 4 * MULTIPLIERS,
                                  make_float4(sent[0], sent[1], sent[2], sent[3]), arrived);
        }
    arrived.wait(0);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < HALF; i += 4) {
            const float4 got = place[(tile * HALF + i) / 4 * MULTIPLIERS];
            kept[tile][i] += got.x, kept[tile][i + 1] += got.y, kept[tile][i + 2] += got.z, kept[tile][i + 3] += got.w;
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
    __shared__ hopper::Barrier full[STAGES], empty[STAGES], arrived;
    Ring ring{hopper::aligned(unaligned), full, empty};
    const int all = (k + CHUNK - 1) / CHUNK, first_chunk = all * blockIdx.y / gridDim.y, x_panel = x_rows * ROW_BYTES;
    const Chunks chunks{first_chunk, static_cast<int>(all * (blockIdx.y + 1) / gridDim.y) - first_chunk};
    output += static_cast<long long>(blockIdx.y / SPLITS) * rows * out_n;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(GROUPS);
        arrived.init(1);
        hopper::barriers_are_ready();
        arrived.expect(MULTIPLIERS * TILES * HALF * 4);
    }
    __syncthreads();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the compiler sees that it is the same for all lanes
    if (warp >= MULTIPLIERS / 32) {
        if constexpr (LENDS) hopper::give_registers<24>();
        if (warp == MULTIPLIERS / 32) copy_weight(ring, weight_map, chunks, out_n, PANELS * x_panel, overlapped);
        else if (warp == MULTIPLIERS / 32 + 1) copy_x(ring, x_map, chunks, out_n);
        if constexpr (SPLITS > 1) {
            __syncwarp();
            hopper::await_cluster();
        }
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
                const int half = hopper::block_in_cluster();
                float kept[TILES][HALF];
                hopper::await_cluster();  // all stages of both blocks are read
                add_halves(kept, sum, half, ring.stages, arrived);
                store_all(kept, output, own, half, rows, column, out_n);
            } else store_all(sum, output, own, 0, rows, column, out_n);
        }
    }
}
