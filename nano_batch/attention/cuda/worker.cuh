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

// The pairs of a worker's share, one after the other. A Reader holds what a warp has gathered of the present one:
// begin_pair(at) loads its query and may put that off, store(sums) hands the sums over and clears them.
template <class Reader> struct Pairs {
    Reader& reader;
    const Parts& parts;
    const Output& output;
    WarpSums* warp_sums;  // two places: one is read while the other is written
    const Share& share;
    Cursor at;            // the present pair's first tile
    int begin = 0, end;   // its tiles are these numbers of the share
    int turn = 0;
    SplitPair* split;     // in shared memory, by thread 0: pairs of which other workers have parts, begun before this
                          // worker and in it

    __device__ Pairs(Reader& reader, const Parts& parts, const Output& output, WarpSums* warp_sums, const Share& share,
                     const Cursor& first, SplitPair* split)
        : reader(reader), parts(parts), output(output), warp_sums(warp_sums), share(share), at(first), split(split) {
        enter();
    }

    // Puts together what the warps have gathered of the present pair and goes on to the next; false after the last.
    // All warps that read meet here.
    __device__ __forceinline__ bool finish() {
        const int row = at.row, head = at.head, worker = blockIdx.x;
        const bool begins = begin > 0 || share.first_worker == worker, ends = at.tile + end - begin == at.span.end;
        reader.store(warp_sums[turn]);
        const bool more = end < share.tiles;
        if (more) {
            begin = end;
            at.next_pair();
            enter();  // its query is under way while the warps' sums are put together
        }
        meet_readers();
        each_element(query_heads(head), [&](int query, int dim) {
            const Sum sum = warp_sums[turn].sum(query, dim);
            if (begins && ends) output.write(row, head, query, dim, sum);
            else parts.write(2 * worker + begins, query, dim, sum);
        });
        turn ^= 1;
        if (threadIdx.x == 0) {
            if (!begins) split[0] = {row, head, share.first_worker, ends ? worker : share.last_worker};
            else if (!ends) split[1] = {row, head, worker, share.last_worker};
        }
        return more;
    }

  private:
    __device__ __forceinline__ void enter() {
        end = min(share.tiles, begin + at.span.end - at.tile);
        reader.begin_pair(at);
    }
};

// A Reader's start(share) is called first, then, in any case, settle(), before anything is written or a query read;
// read(pairs) gathers the warp's tiles of all pairs, calling pairs.finish() after each.
template <class Reader>
__device__ __forceinline__ void work(Reader& reader, const Plan& plan, const Parts& parts, const Output& output,
                                     WarpSums* warp_sums, int rows, int heads, int window) {
    const int worker = blockIdx.x, workers = gridDim.x;
    const Share share = plan.shares[worker];
    __shared__ SplitPair split[2];
    if (threadIdx.x == 0) split[0].first = split[1].first = -1;
    constexpr int NO_ROW = -1;
    int length = worker < rows ? plan.lengths[worker] : NO_ROW;  // on its way with the first tiles
    if (share.tiles > 0) reader.start(share);
    reader.settle();
    for (int row = worker; row < rows; row += workers, length = row < rows ? plan.lengths[row] : NO_ROW)
        if (length == 0)
            for (int head = 0; head < heads; head++)
                each_element(query_heads(head), [&](int query, int dim) { output.write(row, head, query, dim, Sum()); });
    if (share.tiles > 0) {
        Pairs<Reader> pairs(reader, parts, output, warp_sums, share, Cursor(share, plan.lengths, rows, window), split);
        reader.read(pairs);
    }

    // Whoever writes the last part of a split pair merges all of them.
    meet_readers();
    if (split[0].first < 0 && split[1].first < 0) return;
    __shared__ bool is_last[2];
    // The barrier and the count put all that the block has written before what the last to arrive reads.
    if (threadIdx.x < 2) is_last[threadIdx.x] = split[threadIdx.x].arrive(plan.arrivals);
    meet_readers();
    for (int which = 0; which < 2; which++) {
        const SplitPair pair = split[which];
        if (is_last[which])
            merge(PartsOfPair(parts, pair), query_heads(pair.head), reinterpret_cast<float*>(warp_sums),
                  [&](int query, int dim, const Sum& sum) { output.write(pair.row, pair.head, query, dim, sum); });
    }
}
