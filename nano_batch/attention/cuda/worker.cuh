// What a worker does with its share, whatever the way in which its warps read tiles.
#pragma once
#include "walk.cuh"

#include "combine.cuh"

// HEADS: query heads that a block takes at once, of the GROUP that share a key/value head.
constexpr int PARTS_OF_GROUP = (GROUP + HEADS - 1) / HEADS;

// A pair's head is a part of the query heads of a key/value head.
__device__ __forceinline__ int kv_head(int head) { return head / PARTS_OF_GROUP; }
__device__ __forceinline__ int first_query_head(int head) {
    return kv_head(head) * GROUP + head % PARTS_OF_GROUP * HEADS;
}
__device__ __forceinline__ int query_heads(int head) { return min(HEADS, GROUP - head % PARTS_OF_GROUP * HEADS); }

// A scale for each key/value head (stride 1), one for all (stride 0), or none (null).
struct Scales {
    const float* data;
    int stride;

    __device__ float at(int head) const { return data ? data[kv_head(head) * stride] : 1.0f; }
};

struct Output {
    Element* data;  // [rows, query heads, HEAD_DIM]
    int query_heads;
    Scales value_scale;
    float unit;  // what every sum is still to be multiplied by

    __device__ __forceinline__ void write(int row, int head, int at, int dim, const Sum& sum) const {
        const long long query = static_cast<long long>(row) * query_heads + first_query_head(head) + at;
        const float factor = sum.total > 0 ? unit * value_scale.at(head) / sum.total : 0;
        store_four(data + query * HEAD_DIM + dim, sum.value, factor);
    }
};

// A Reader has, for each warp: start(share), called once; begin_pair(at), which may put off its loads; read(at, done,
// tiles), which gathers the warp's tiles of the next `tiles` of the share after `done`, the first of them at `at`; and
// store(sums, warp, lane).
template <class Reader>
__device__ __forceinline__ void work(Reader& reader, const Plan& plan, const Parts& parts, const Output& output,
                                     WarpSums* warp_sums, int rows, int heads, int window) {
    const int worker = blockIdx.x, workers = gridDim.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Share share = plan.shares[worker];
    SplitPair earlier, onward;  // pairs of which other workers have parts: begun before this worker, and in it
    if (share.tiles > 0) {
        reader.start(share);
        Cursor at(share, plan.lengths, rows, window);
        reader.begin_pair(at);
        int turn = 0;  // of two places for the warps' sums: one is read while the other is written
        for (int done = 0; done < share.tiles; turn ^= 1) {
            const int row = at.row, head = at.head, tiles = min(at.span.end - at.tile, share.tiles - done);
            const bool begins = done > 0 || share.first_worker == worker, ends = at.tile + tiles == at.span.end;
            reader.read(at, done, tiles);
            reader.store(warp_sums[turn], warp, lane);
            done += tiles;
            if (done < share.tiles) {
                at.next_pair();
                reader.begin_pair(at);  // under way while the warps' sums are put together
            }
            __syncthreads();
            each_element(query_heads(head), [&](int query, int dim) {
                const Sum sum = warp_sums[turn].sum(query, dim);
                if (begins && ends) output.write(row, head, query, dim, sum);
                else parts.write(2 * worker + begins, query, dim, sum);
            });
            if (!begins) earlier = {row, head, share.first_worker, ends ? worker : share.last_worker};
            else if (!ends) onward = {row, head, worker, share.last_worker};
        }
    }
    for (int row = worker; row < rows; row += workers)
        if (plan.lengths[row] == 0)
            for (int head = 0; head < heads; head++)
                each_element(query_heads(head), [&](int query, int dim) { output.write(row, head, query, dim, Sum()); });

    // Whoever writes the last part of a split pair merges all of them.
    if (earlier.first < 0 && onward.first < 0) return;
    __shared__ bool is_last[2];
    __syncthreads();
    if (threadIdx.x < 2) {
        __threadfence();  // after the barrier: for what the whole block has written
        is_last[threadIdx.x] = (threadIdx.x == 0 ? earlier : onward).arrive(plan.arrivals);
        __threadfence();
    }
    __syncthreads();
    const auto merge_pair = [&](const SplitPair& pair) {
        merge(parts, pair, query_heads(pair.head), reinterpret_cast<float*>(warp_sums),
              [&](int query, int dim, const Sum& sum) { output.write(pair.row, pair.head, query, dim, sum); });
    };
    if (is_last[0]) merge_pair(earlier);
    if (is_last[1]) merge_pair(onward);
}
