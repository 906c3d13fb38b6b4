// The plan of a decode step: an equal share of all tiles for each worker (walk.cuh). One block of threads.
#include "ptx.cuh"
#include "walk.cuh"

namespace {

// The sum of `value` over all threads before this one; `total` gets the sum over all.
__device__ int sum_before(int value, int& total) {
    __shared__ int of_warp[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    __syncthreads();
    int inclusive = value;
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, inclusive, step);
        if (lane >= step) inclusive += other;
    }
    if (lane == 31) of_warp[warp] = inclusive;
    __syncthreads();
    int before = 0;
    total = 0;
    for (int other = 0; other < warps; other++) {
        if (other < warp) before += of_warp[other];
        total += of_warp[other];
    }
    return before + inclusive - value;
}

// The largest of all threads'.
__device__ int largest(int value) {
    __shared__ int of_warp[32];
    for (int mask = 16; mask > 0; mask /= 2) value = max(value, __shfl_xor_sync(~0u, value, mask));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); warp++) value = max(value, of_warp[warp]);
    return value;
}

// Worker w of `active` has the tiles [cut(w), cut(w + 1)) of `total`.
__device__ int cut(int worker, int active, int total) {
    return static_cast<int>(static_cast<long long>(worker) * total / active);
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
// LENGTH_TYPE: of context_lens.
extern "C" __global__ void __launch_bounds__(1024)
    plan(const LENGTH_TYPE* context_lens, int rows, int heads, int window, int workers, int least_tiles, int* memory) {
    DYNAMIC_SHARED(shared);
    int* before = reinterpret_cast<int*>(shared);
    ptx::wait_for_earlier();
    const Plan plan(memory, workers);
    const int thread = threadIdx.x, threads = blockDim.x;

    const int each = (rows + threads - 1) / threads, begin = min(rows, thread * each), end = min(rows, begin + each);
    int sum = 0, full = 0, longest = 0;
    for (int row = begin; row < end; row++) {
        const int length = max(-1, static_cast<int>(context_lens[row]));
        plan.lengths[row] = length;
        before[row] = sum;
        const int tiles = Span(length, window).tiles();
        sum += tiles;
        full += tiles > 0;
        longest = max(longest, tiles);
    }
    int total, full_rows;
    const int earlier = sum_before(sum, total);
    sum_before(full, full_rows);
    const bool equal = total == static_cast<long long>(full_rows) * largest(longest);
    for (int row = begin; row < end; row++) before[row] += earlier;
    if (thread == 0) before[rows] = total;
    __syncthreads();

    const int line = total * heads, active = sharers(workers, line, full_rows * heads, equal, least_tiles);
    for (int worker = thread; worker < workers; worker += threads) {
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
