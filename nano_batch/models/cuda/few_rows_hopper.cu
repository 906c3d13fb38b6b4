// A linear layer for up to TOKENS rows of x, at the speed at which the weight can be read, on Hopper.
//
// A block takes all rows of x and a tile of COLUMNS rows of the weight, then the tile gridDim.x further on, or SPLITS
// blocks each of PARTS clusters take one tile, a part of k each. Two warps have chunks copied to shared memory, one the
// weight's, one x's, STAGES on their way. The weight's first chunks do not wait for the kernel before this one; and the
// kernel after it may start when this one has asked for its last. A cluster's sums meet in shared memory, each block finishing
// half of the rows with what it gets, rounded, of the other; those of several clusters are left for the next kernel to add.
//
// Macros: those of tile.cuh; SPLITS; PARTS; ADDS and DIVIDES (undivided_norm.cuh).
#include "tile.cuh"

// Two warps copy, and two more may have factors to make. Where threads have too few registers, these give theirs, four warps
// at a time.
constexpr bool LENDS = GROUPS == 3 || (WEIGHT_FIRST && GATED);
constexpr int THREADS = MULTIPLIERS + (LENDS || DIVIDES ? 128 : 64);
// Cycles from one of a block's first chunks of the weight to the next. Blocks for few rows begin while the kernel before them
// still reads, and what it asks for would wait behind all of their stages. Those for more begin when it has ended.
constexpr int APART = TOKENS > 64 ? 0 : 800;
// Of a thread's sums of a tile, what a cluster's block keeps, and of all its tiles in fours.
constexpr int HALF = (SECOND / 8 + 1) / 2 * 4, FOURS = TILES * HALF / 4;
constexpr int OF_SECOND = WEIGHT_FIRST ? SECOND / 8 - FOURS : FOURS;  // where eights of x's rows are odd the second has fewer
static_assert(SPLITS <= 2 && (!GATED || SPLITS * PARTS == 1));
static_assert(!WEIGHT_FIRST || GATED || PARTS > 1 || ADDS);
static_assert(SPLITS == 1 || WEIGHT_FIRST || COLUMNS % 16 == 0);

#include "undivided_norm.cuh"

namespace {

// What of k this block takes, in chunks.
struct Chunks {
    int first, count;
};

__device__ __forceinline__ void copy_weight(Ring ring, const TensorMap& map, Chunks chunks, int out_n, int x_bytes) {
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
    ptx::let_later_start();
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

// Stores the sums of a warp, whose rows of the first factor's tile begin with `own`, or what a cluster's block keeps of them.
template <int COUNT>
__device__ __forceinline__ void store_all(const float (&sum)[TILES][COUNT], ELEMENT* output, int own, int half, int rows,
                                          int column, int columns) {
    constexpr bool KEPT = COUNT < SECOND / 2;
    if constexpr (WEIGHT_FIRST) {
        const bool others = threadIdx.x >= 128 && own < 64;  // the first warpgroup has them, too
        constexpr int OF_ROWS = COUNT * 2;
        if (!others) store_turned<OF_ROWS>(sum[0], output, half * OF_ROWS, rows, column + own, columns, columns);
    } else {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int row = own + threadIdx.x % 32 / 4 + tile * 64, kept = row + half * 8;
            if constexpr (KEPT)
                store_row<2>(sum[tile], output + static_cast<long long>(kept) * columns, kept < rows, column, columns);
            else store(sum[tile], output, row, rows, column, columns, columns);
        }
    }
}

#if SPLITS > 1
static_assert(FOURS * 8 * MULTIPLIERS <= STAGES * STAGE_BYTES);

// Adds the sums of the cluster's two blocks: each thread sends half of its own to the same thread of the other block, and keeps
// the rest. Of each warp's 16 rows of x a block keeps eight, or with the weight's rows first half of x's; `part` says which.
// Where the second has eight rows less, what it makes of the last four is of rows past the end.
__device__ __forceinline__ void add_halves(float (&kept)[TILES][HALF], const Sums& sum, int part, unsigned char* memory,
                                           hopper::Barrier& arrived) {
    uint2* const place = reinterpret_cast<uint2*>(memory) + threadIdx.x;  // of the first four, in either block
    hopper::await_cluster();  // all stages of both blocks are read
#pragma unroll
    for (int four = 0; four < FOURS; four++) {
        float sent[4];
        const bool both = four < OF_SECOND;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int tile = four * 4 / HALF, i = four * 4 % HALF + j;
            const float low = sum[tile][WEIGHT_FIRST ? i : i / 2 * 4 + i % 2];
            const float high = both ? sum[tile][WEIGHT_FIRST ? HALF + i : i / 2 * 4 + 2 + i % 2] : 0;
            kept[tile][i] = part ? high : low;
            sent[j] = part ? low : high;
        }
        if (both || part)
            hopper::send_to_block(1 - part, place + four * MULTIPLIERS, from_floats<ELEMENT>(sent).words[0], arrived);
    }
    arrived.wait(0);
#pragma unroll
    for (int four = 0; four < FOURS; four++) {
        Vector<ELEMENT, 4> got;
        got.words[0] = place[four * MULTIPLIERS];
#pragma unroll
        for (int j = 0; j < 4; j++) kept[four * 4 / HALF][four * 4 % HALF + j] += to_float(got.at[j]);
    }
}
#endif

}  // namespace

// weight [n, k] in tiles of COLUMNS rows, x [rows, k] in one of `x_rows`, the next multiple of 8; both of PANELS panels.
// output [rows, n], or n / 2 where GATED; a multiple of 4; [PARTS, rows, n] where there are several. Blocks: any number
// in x, where k is split as many as there are tiles; SPLITS times PARTS in y. ADDS: residual [rows, n] and norm [n], and
// squares [tiles, x_rows] are made; DIVIDES: they are read, of so many tiles.
extern "C" __global__ void __cluster_dims__(1, SPLITS, 1) __launch_bounds__(THREADS, 1)
    few_rows_hopper(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap x_map, ELEMENT* output,
                    int rows, int x_rows, int out_n, int k, ELEMENT* residual, const ELEMENT* norm,
                    float* squares, int square_tiles, float eps) {
    extern __shared__ unsigned char unaligned[];
    __shared__ hopper::Barrier full[STAGES], empty[STAGES], arrived, divisible;
#if ADDS || DIVIDES
    __shared__ __align__(16) float of_rows[ADDS ? 2 * TOKENS : TOKENS];
#endif
    Ring ring{hopper::aligned(unaligned), full, empty};
    const int all = (k + CHUNK - 1) / CHUNK, first_chunk = all * blockIdx.y / gridDim.y, x_panel = x_rows * ROW_BYTES;
    const Chunks chunks{first_chunk, static_cast<int>(all * (blockIdx.y + 1) / gridDim.y) - first_chunk};
    output += static_cast<long long>(blockIdx.y / SPLITS) * rows * out_n;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(GROUPS);
        arrived.init(1), divisible.init(32);
        hopper::barriers_are_ready();
        if (SPLITS > 1) arrived.expect(MULTIPLIERS * 8 * (hopper::block_in_cluster() ? OF_SECOND : FOURS));
    }
    __syncthreads();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the compiler sees that it is the same for all lanes
    if (warp >= MULTIPLIERS / 32) {
        if constexpr (LENDS) hopper::give_registers<24>();
        if (warp == MULTIPLIERS / 32) copy_weight(ring, weight_map, chunks, out_n, PANELS * x_panel);
        else if (warp == MULTIPLIERS / 32 + 1) copy_x(ring, x_map, chunks, out_n);
#if DIVIDES
        else {
            ptx::wait_for_earlier();
            make_factors(threadIdx.x - MULTIPLIERS - 64, of_rows, squares, square_tiles, x_rows, k, eps);
            if (warp == MULTIPLIERS / 32 + 2) divisible.arrive();
        }
#endif
    } else {
        if constexpr (LENDS) hopper::take_registers<GROUPS == 3 ? 160 : 240>();
        // Without a chunk no barrier makes it wait, and the kernel before may still use what it stores to.
        if (chunks.count == 0) ptx::wait_for_earlier();
        const int first = warp / 4 * GROUP_ROWS, own = first + warp % 4 * 16;  // rows of the first factor
        const int half = SPLITS > 1 ? hopper::block_in_cluster() : 0;
        for (int column = blockIdx.x * OUT_COLUMNS; column < out_n; column += gridDim.x * OUT_COLUMNS) {
            Sums sum = {};
#if ADDS
            // When x's first chunk is there the kernels before this one have ended. What is asked for now is there at the end.
            if (chunks.count > 0) ring.full[ring.stage].wait(ring.round);
            Residual before(residual, norm, own, half, rows, out_n);
            multiply<TILES>(sum, ring, chunks.count, first, x_panel);
#else
            if (WEIGHT_FIRST || TILES == 1 || first + 64 < rows) multiply<TILES>(sum, ring, chunks.count, first, x_panel);
            else multiply<1>(sum, ring, chunks.count, first, x_panel);
#endif
#if SPLITS > 1
            float kept[TILES][HALF];
            add_halves(kept, sum, half, ring.stages, arrived);
#else
            Sums& kept = sum;
#endif
#if DIVIDES
            divisible.wait(0);
            divide(kept, of_rows, own, half);
#endif
#if ADDS
            before.add(kept[0], output, squares + blockIdx.x * x_rows, of_rows);
#else
            store_all(kept, output, own, half, rows, column, out_n);
#endif
        }
    }
}
