// silu(x gate^T) * (x up^T) for many rows of x, on Hopper: SiLU's share of the time goes, and so do the arrays before it.
//
// Two blocks of a cluster take neighbouring tiles of the weight and the same rows of x, of which each has one half copied
// for both: what binds is power, and a third of what is read costs some. Pairs go on to the next pair of tiles, whose first
// chunks come while the last sums are stored. The weight's first chunks do not wait for the kernel before this one.
//
// Macros: those of tile.cuh, with 256 TOKENS, one panel and GATED; BAND: tiles of x that meet a pair of the weight's before
// the next one.
#include "tile.cuh"

constexpr int SHARERS = 2, THREADS = MULTIPLIERS + 128;  // of a cluster; of four warps that give registers two copy
constexpr int HALF_X = TOKENS / SHARERS, PAIR_COLUMNS = SHARERS * OUT_COLUMNS;
static_assert(GATED && PANELS == 1 && GROUPS == 2 && !WEIGHT_FIRST);  // as many registers as these are there

namespace {

// Where the tiles of a pair begin, for this block.
struct Place {
    int row, column;
};

// Pairs of tiles, which the clusters take in turn: BAND tiles of x meet a pair of the weight's, then the next.
struct Pairs {
    int row_tiles, columns, count;

    __device__ __forceinline__ Pairs(int rows, int out_n)
        : row_tiles((rows + TOKENS - 1) / TOKENS),
          columns((out_n + PAIR_COLUMNS - 1) / PAIR_COLUMNS),
          count(row_tiles * columns) {}
    __device__ __forceinline__ int first() const { return blockIdx.x / SHARERS; }
    __device__ __forceinline__ int step() const { return gridDim.x / SHARERS; }
    __device__ __forceinline__ Place place(int pair) const {
        const int band = BAND * columns, row = pair / band * BAND, high = min(BAND, row_tiles - row), in = pair % band;
        const int block = hopper::block_in_cluster();
        return {(row + in % high) * TOKENS, in / high * PAIR_COLUMNS + block * OUT_COLUMNS};
    }
};

__device__ __forceinline__ void copy_weight(Ring ring, const TensorMap& map, Pairs pairs, int chunks) {
    const bool one = hopper::elected();
    for (int pair = pairs.first(); pair < pairs.count; pair += pairs.step()) {
        const int column = pairs.place(pair).column;
        for (int chunk = 0; chunk < chunks; chunk++, ring.next()) {
            ring.wait_until_empty();
            if (!one) continue;
            ring.full[ring.stage].expect(STAGE_BYTES);
            hopper::load_panels<false>(ring.weight(), map, column, chunk, ring.full[ring.stage]);
        }
    }
    ptx::let_later_start();
}

// This block's half, for both.
__device__ __forceinline__ void copy_x(Ring ring, const TensorMap& map, Pairs pairs, int chunks) {
    const bool one = hopper::elected();
    const int part = hopper::block_in_cluster();
    ptx::wait_for_earlier();
    for (int pair = pairs.first(); pair < pairs.count; pair += pairs.step()) {
        const int row = pairs.place(pair).row + part * HALF_X;
        for (int chunk = 0; chunk < chunks; chunk++, ring.next()) {
            ring.wait_until_empty();
            if (!one) continue;
            unsigned char* half = ring.x() + part * HALF_X * ROW_BYTES;
            hopper::load_panels_of_blocks(3, half, map, row, chunk, ring.full[ring.stage]);
        }
    }
}

}  // namespace

// weight [2 n, k] in tiles of COLUMNS rows, x [rows, k] in tiles of half of TOKENS; both of one panel. output [rows, n]; n
// is a multiple of 4. Blocks: any even number in x.
extern "C" __global__ void __cluster_dims__(SHARERS, 1, 1) __launch_bounds__(THREADS, 1)
    many_rows_hopper(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap x_map, ELEMENT* output,
                     int rows, int out_n, int chunks) {
    extern __shared__ unsigned char unaligned[];
    __shared__ hopper::Barrier full[STAGES], empty[STAGES];
    Ring ring{hopper::aligned(unaligned), full, empty};
    const Pairs pairs(rows, out_n);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(GROUPS * SHARERS);
        hopper::barriers_are_ready();
    }
    hopper::meet_cluster();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the compiler sees that it is the same for all lanes
    if (warp >= MULTIPLIERS / 32) {
        hopper::give_registers<24>();
        if (warp == MULTIPLIERS / 32) copy_weight(ring, weight_map, pairs, chunks);
        else if (warp == MULTIPLIERS / 32 + 1) copy_x(ring, x_map, pairs, chunks);
    } else {
        hopper::take_registers<240>();
        const int first = warp / 4 * GROUP_ROWS, own = first + warp % 4 * 16 + threadIdx.x % 32 / 4;
        for (int pair = pairs.first(); pair < pairs.count; pair += pairs.step()) {
            const Place place = pairs.place(pair);
            Sums sum = {};
            multiply<TILES, SHARERS>(sum, ring, chunks, first, TOKENS * ROW_BYTES);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                store(sum[tile], output, place.row + own + tile * 64, rows, place.column, out_n, out_n);
        }
    }
    __syncwarp();
    hopper::meet_cluster();  // the other block's last arrivals at this one's barriers come before
}
