// Any number of queries a row over a paged cache, on tensor cores: each row's queries are its last positions.
//
// A block takes TOKENS neighbouring tokens, of whichever rows, and all GROUP query heads of a key/value head: so many
// rows of its products, 16 a warp, that each key and value in shared memory serves. Where the tokens belong to several
// rows it goes through one after the other. Keys and values come from where the plan's slots say, KEYS at a time, the
// next while the last are multiplied:
//     scores [16, KEYS] = Q [16, HEAD_DIM] K^T,  output [16, HEAD_DIM] += P [16, KEYS] V.
// Macros: ELEMENT, of queries, cache and output: 0 float16, 1 bfloat16; HEAD_DIM, GROUP, BLOCK_SIZE; WARPS of a block;
// KEYS, a multiple of 16; BLOCKS_PER_SM; HOPPER: with its products, 4 warps and 64 keys.
// Running softmax: Milakov and Gimelshein (2018); tiles of queries and keys: Dao, "FlashAttention-2" (2023).
#include "ptx.cuh"

#include "prefill_products.cuh"

constexpr int THREADS = 32 * WARPS, ROWS = 16 * WARPS, TOKENS = ROWS / GROUP;
constexpr int KEYS_AT_ONCE = THREADS / PIECES, KEYS_EACH = KEYS / KEYS_AT_ONCE;  // that a thread copies a piece of
constexpr float LOG2_E = 1.4426950408889634f, NOTHING = -1.0e30f;
static_assert(GROUP <= ROWS);

namespace {

// Brings tiles of a row's keys and values. The slots of a tile are looked up while the one before it is on its way.
struct Loader {
    const uint4 *keys, *values;
    unsigned own, block, token;  // this thread's piece of slot 0, and strides: in pieces, at most 2^32 of a cache
    const long long* slots;      // of the row's keys
    int count;
    int slot[KEYS_EACH];

    __device__ __forceinline__ int key(int i) const { return threadIdx.x / PIECES + i * KEYS_AT_ONCE; }
    __device__ __forceinline__ void look_up(int tile) {
#pragma unroll
        for (int i = 0; i < KEYS_EACH; i++) {
            const int at = tile * KEYS + key(i);
            slot[i] = at < count ? static_cast<int>(slots[at]) : -1;
        }
    }
    // What was looked up; zeros where there is no key.
    __device__ __forceinline__ void copy(unsigned char* to) const {
#pragma unroll
        for (int i = 0; i < KEYS_EACH; i++) {
            const bool real = slot[i] >= 0;
            const unsigned from = real ? slot[i] : 0, there = own + from / BLOCK_SIZE * block + from % BLOCK_SIZE * token;
            unsigned char* at = to + place(key(i), threadIdx.x % PIECES);
            ptx::copy_async(at, keys + there, real);
            ptx::copy_async(at + TILE_BYTES, values + there, real);
        }
    }
};

// 16 rows of a warp: their queries, and what was gathered. A lane has row lane / 4, and that eight further down, of each
// eight columns 2 (lane % 4) and the next.
struct Rows {
    unsigned query[SLICES][4];
    float output[COLUMNS][4], largest[2], total[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 2; i++) largest[i] = NOTHING, total[i] = 0;
#pragma unroll
        for (int column = 0; column < COLUMNS; column++)
#pragma unroll
            for (int i = 0; i < 4; i++) output[column][i] = 0;
    }

    // Turns the query of a lane's row; cosines and sines from those of its first pair on.
    __device__ __forceinline__ void turn_query(int lower, const float* cosines, const float* sines) {
        constexpr int HALF = PIECES / 2;
#pragma unroll
        for (int piece = 0; piece < HALF; piece++)
            turn_words(query[piece / 2][piece % 2 * 2 + lower], query[(piece + HALF) / 2][(piece + HALF) % 2 * 2 + lower],
                       *reinterpret_cast<const float2*>(cosines + piece * 8), *reinterpret_cast<const float2*>(sines + piece * 8));
    }

    // From scores to weights; what was gathered is scaled to the new largest score.
    __device__ __forceinline__ void weigh(float (&scores)[SCORES][4], float unit) {
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int column = 0; column < SCORES; column++)
#pragma unroll
            for (int i = 0; i < 4; i++) most[i / 2] = fmaxf(most[i / 2], scores[column][i]);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int step = 1; step < 4; step *= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(~0u, most[i], step));
        // Of a row that has seen nothing yet all weights are 0.
        const float down[2] = {most[0] == NOTHING ? 0 : most[0] * unit, most[1] == NOTHING ? 0 : most[1] * unit};
        if (__any_sync(~0u, most[0] > largest[0] || most[1] > largest[1])) {
            const float keep[2] = {ptx::exp2(largest[0] * unit - down[0]), ptx::exp2(largest[1] * unit - down[1])};
#pragma unroll
            for (int i = 0; i < 2; i++) total[i] *= keep[i], largest[i] = most[i];
#pragma unroll
            for (int column = 0; column < COLUMNS; column++)
#pragma unroll
                for (int i = 0; i < 4; i++) output[column][i] *= keep[i / 2];
        }
#pragma unroll
        for (int column = 0; column < SCORES; column++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float& at = scores[column][i];
                total[i / 2] += at = ptx::exp2(at * unit - down[i / 2]);
            }
    }

    // Stores a row, divided by its weights' total.
    __device__ __forceinline__ void store(Element* row, int lower, bool real, int lane) const {
        float sum = total[lower];
#pragma unroll
        for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        const float factor = sum > 0 ? 1 / sum : 0;
        const bool second = lane % 2;
#pragma unroll
        for (int column = 0; column < COLUMNS; column += 2) {
            const float *left = output[column] + lower * 2, *right = output[column + 1] + lower * 2;
            const unsigned here = pack<BF16>(left[0] * factor, left[1] * factor);
            const unsigned there = pack<BF16>(right[0] * factor, right[1] * factor);
            const uint2 four = exchanged(here, there, second);
            if (real) *reinterpret_cast<uint2*>(row + (column + second) * 8 + lane % 4 / 2 * 4) = four;
        }
    }
};

}  // namespace

// query, output: [tokens, query heads, HEAD_DIM], strides of the query in elements, even; the output contiguous.
// Strides of keys and values in pieces. starts, seen_starts [rows + 1]: each row's first token, and the first of the
// keys that it sees among `slots`, of which its queries are the last. Tokens after the last row get zeros; those
// before the first are left as they are. With positions [tokens] the queries of tokens from `turned` on are turned to
// them, by the turns of all positions [positions, HEAD_DIM / 2]. window: 0 is none. unit: of all scores, above 0.
// Blocks: TOKENS tokens each in x, key/value heads in y.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    prefill(const Element* query, long long query_row, long long query_head, const uint4* keys, const uint4* values,
            unsigned block_pieces, unsigned token_pieces, unsigned head_pieces, const int* starts, const int* seen_starts,
            const long long* slots, const long long* positions, const float* cosines, const float* sines, int turned,
            Element* output, int rows, int tokens, int window, float unit) {
    DYNAMIC_SHARED(dynamic);
    unsigned char* memory = aligned(dynamic);
    const int lane = threadIdx.x % 32, kv_head = blockIdx.y, query_heads = gridDim.y * GROUP;
    const int begin = blockIdx.x * TOKENS, end = min(begin + TOKENS, tokens);
    unit *= LOG2_E;
    const unsigned own_piece = kv_head * head_pieces + threadIdx.x % PIECES;
    ptx::let_later_start();
    ptx::wait_for_earlier();

    // Of this lane's two rows: the token, and the head among those of the group.
    int token[2], head[2];
    long long angle[2] = {-1, -1};  // of a query that is still to be turned
    Rows own;
#pragma unroll
    for (int lower = 0; lower < 2; lower++) {
        const int row = threadIdx.x / 32 * 16 + lane / 4 + lower * 8;
        token[lower] = begin + row % TOKENS, head[lower] = kv_head * GROUP + row / TOKENS;
        const bool real = token[lower] < end && row / TOKENS < GROUP;
        if (!real) token[lower] = tokens;  // of no row
        const Element* at = query + token[lower] * query_row + head[lower] * query_head + lane % 4 * 2;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
            own.query[piece / 2][piece % 2 * 2 + lower] = real ? *reinterpret_cast<const unsigned*>(at + piece * 8) : 0;
        if (real && positions != nullptr && token[lower] >= turned)
            angle[lower] = positions[token[lower]] * (HEAD_DIM / 2) + lane % 4 * 2;
    }
    const auto store = [&](int from, int to) {
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
            const bool real = token[lower] >= from && token[lower] < to;
            const long long row = real ? static_cast<long long>(token[lower]) * query_heads + head[lower] : 0;
            own.store(output + row * HEAD_DIM, lower, real, lane);
        }
    };

    int row = 0;  // the first that has a token from `begin` on
    for (int i = lane; i < rows; i += 32) row += starts[i + 1] <= begin;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) row += __shfl_xor_sync(~0u, row, step);
    int after = starts[row];
    for (; row < rows && after < end; row++) {
        const int from = max(begin, after);
        after = starts[row + 1];
        const int first = seen_starts[row], seen = seen_starts[row + 1] - first, to = min(end, after);
        if (from >= to) continue;
        const int ahead = seen - after;  // token t sees the row's keys up to t + ahead
        const int oldest = window > 0 ? max(0, from + ahead - window + 1) : 0;
        const int tiles = seen > 0 ? (to - 1 + ahead) / KEYS + 1 : 0;
        own.clear();
        Loader loader{keys, values, own_piece, block_pieces, token_pieces, slots + first, seen};
        int stage = 0;
        if (tiles > 0) {
            loader.look_up(oldest / KEYS);
            loader.copy(memory);
            ptx::end_copies();
            loader.look_up(oldest / KEYS + 1);
        }
        // While the first keys are on their way.
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
            if (angle[lower] >= 0) own.turn_query(lower, cosines + angle[lower], sines + angle[lower]);
            angle[lower] = -1;
        }
        for (int tile = oldest / KEYS; tile < tiles; tile++, stage ^= 1) {
            if (tile + 1 < tiles) loader.copy(memory + (stage ^ 1) * 2 * TILE_BYTES);
            ptx::end_copies();
            if (tile + 2 < tiles) loader.look_up(tile + 2);
            ptx::await_copies<1>();
            copies_are_seen();
            __syncthreads();
            const unsigned char* here = memory + stage * 2 * TILE_BYTES;
            float scores[SCORES][4] = {};
            score(scores, own.query, here, lane);
            // Of most tiles all is seen.
            if (tile * KEYS + KEYS - 1 > from + ahead || (window > 0 && tile * KEYS <= to - 1 + ahead - window)) {
#pragma unroll
                for (int column = 0; column < SCORES; column++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int key = tile * KEYS + column * 8 + lane % 4 * 2 + i % 2, newest = token[i / 2] + ahead;
                        if (key > newest || (window > 0 && key <= newest - window)) scores[column][i] = NOTHING;
                    }
            }
            own.weigh(scores, unit);
            gather(own.output, scores, here + TILE_BYTES, lane);
            __syncthreads();
        }
        store(from, to);
    }
    if (after < end && row == rows) {
        own.clear();
        store(max(begin, after), end);
    }
}
