// The plan of a decode step: an equal share of all tiles for each worker (walk.cuh). One block of threads.
//
// Macros: LENGTH_TYPE, of context lengths; TILE, of walk.cuh; THREADS.
#include "ptx.cuh"
#include "walk.cuh"

constexpr int WARPS = THREADS / 32;

namespace {

// Of some rows: the tiles of one head, how many rows have any, and the most of a row.
struct Sums {
    int tiles, rows, longest;
};

// The tiles of all threads before this one; `all` gets the sums of all.
__device__ int tiles_before(Sums mine, Sums& all) {
    __shared__ Sums of_warp[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = mine.tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, mine.tiles, step);
        if (lane >= step) mine.tiles += other;
        mine.rows += __shfl_xor_sync(~0u, mine.rows, step);
        mine.longest = max(mine.longest, __shfl_xor_sync(~0u, mine.longest, step));
    }
    if (lane == 31) of_warp[warp] = mine;
    __syncthreads();
    int before = mine.tiles - own;
    all = {};
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        const Sums other = of_warp[i];
        if (i < warp) before += other.tiles;
        all = {all.tiles + other.tiles, all.rows + other.rows, max(all.longest, other.longest)};
    }
    return before;
}

// Worker w of `active` has the tiles [cut(w), cut(w + 1)) of `total`: worker * total / active, in 32 bits while there
// are at most 46,340 of them.
__device__ int cut(int worker, int active, int total) {
    return worker * (total / active) + worker * (total % active) / active;
}
__device__ int owner(int tile, int active, int total) {
    return static_cast<int>((static_cast<long long>(tile + 1) * active - 1) / total);
}

// How many workers share `total` tiles of `pairs` pairs. Small work goes to fewer: a part costs more to merge than a
// few tiles to read. And where it costs few workers, so many that cuts fall between pairs, if all are of equal length:
// memory is as busy with a few blocks less, and nothing is left to merge.
__device__ int sharers(int workers, int total, int pairs, bool equal, int least_tiles) {
    const int most = max(1, min(workers, (total + least_tiles - 1) / least_tiles)), least = (most * 7 + 7) / 8;
    if (!equal) return most;
    if (pairs > 0 && pairs <= most) return most / pairs * pairs >= least ? most / pairs * pairs : most;
    for (int each = (pairs + most - 1) / most; each > 0 && pairs / each >= least; each++)
        if (pairs % each == 0) return pairs / each;
    return most;
}

// Where a tile of the line lies: the pair, of how many tiles, and which of them.
struct Place {
    int head, row, tiles, into;
};
__device__ Place place(const int* before, int rows, int of_head, int tile) {
    const int head = tile / of_head, within = tile % of_head;
    // The last row that begins at or before the tile; empty rows begin where the next one does.
    int low = 0, high = rows;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (before[middle] <= within ? low : high) = middle;
    }
    return {head, low, before[low + 1] - before[low], within - before[low]};
}

}  // namespace

// before [rows + 1] in shared memory: tiles of one head in all rows before a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    plan(const LENGTH_TYPE* context_lens, int rows, int heads, int window, int workers, int least_tiles, int* memory) {
    DYNAMIC_SHARED(shared);
    int* before = reinterpret_cast<int*>(shared);
    ptx::wait_for_earlier();
    const Plan plan(memory, workers);
    const int thread = threadIdx.x;

    const int each = (rows + THREADS - 1) / THREADS, begin = min(rows, thread * each), end = min(rows, begin + each);
    Sums own = {}, all;
    for (int row = begin; row < end; row++) {
        const int length = max(-1, static_cast<int>(context_lens[row]));
        plan.lengths[row] = length;
        before[row] = own.tiles;
        const int tiles = Span(length, window).tiles();
        own = {own.tiles + tiles, own.rows + (tiles > 0), max(own.longest, tiles)};
    }
    const int earlier = tiles_before(own, all), total = all.tiles;
    for (int row = begin; row < end; row++) before[row] += earlier;
    if (thread == 0) before[rows] = total;
    __syncthreads();

    const bool equal = total == static_cast<long long>(all.rows) * all.longest;
    const int line = total * heads, active = sharers(workers, line, all.rows * heads, equal, least_tiles);
    for (int worker = thread; worker < workers; worker += THREADS) {
        Share share = {};
        plan.arrivals[worker] = 0;
        if (worker < active && line > 0) {
            const int from = cut(worker, active, line), to = cut(worker + 1, active, line);
            const Place first = place(before, rows, total, from), last = place(before, rows, total, to - 1);
            share.row = first.row;
            share.length = plan.lengths[first.row];
            share.head = first.head;
            share.tile = Span(share.length, window).first() + first.into;
            share.tiles = to - from;
            share.first_worker = first.into == 0 ? worker : owner(from - first.into, active, line);
            share.last_worker = owner(to - 1 + last.tiles - 1 - last.into, active, line);
        }
        plan.shares[worker] = share;
    }
}
