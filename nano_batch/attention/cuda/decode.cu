// One query a sequence over a paged cache, on tensor cores.
//
// A block of WARPS warps is a worker: it reads its share of the plan (walk.cuh). Tile after tile of a share goes to the
// warps by turns. Each key and value is used once, so none goes through shared memory: every lane loads, sixteen bytes
// at a time, just those numbers that it has to hand to the tensor cores, STAGES tiles ahead. Which dimension stands
// where in a product is free, as long as both factors agree: it is chosen so that these loads need no reordering. All
// query heads of a key/value head, up to 8 a matrix, are the columns of one product, so that each key is read once:
//     scores^T [16 tokens, heads] = K [16, HEAD_DIM] Q^T,  output^T [HEAD_DIM, heads] += V^T [HEAD_DIM, 16] P^T.
// SETTLED: all that it reads but the queries and each row's newest key and value was there before the kernel before
// this one began; then the first tiles are on their way while that one ends.
// Running softmax: Milakov and Gimelshein (2018); splitting a context over blocks: Dao et al., "Flash-Decoding" (2023).
#include "ptx.cuh"

#include "element.cuh"

constexpr int DIM_BYTES = FP8 ? 1 : 2;
constexpr int WIDTH = 16 / DIM_BYTES;     // dimensions of one load
// A lane is (g, c) = (lane / 4, lane % 4). Of a tile's keys it loads tokens g and g + 8, of every 4 WIDTH dimensions
// those from WIDTH c on; of its values tokens 2 c, 2 c + 1, 2 c + 8 and 2 c + 9, of every 8 WIDTH those from WIDTH g on.
constexpr int KEY_CHUNKS = (HEAD_DIM + 4 * WIDTH - 1) / (4 * WIDTH);
constexpr int VALUE_CHUNKS = (HEAD_DIM + 8 * WIDTH - 1) / (8 * WIDTH);
constexpr int SLICES = KEY_CHUNKS * WIDTH / 4;      // products of 16 dimensions for the scores
constexpr int OUTPUTS = VALUE_CHUNKS * WIDTH / 2;   // products of 16 dimensions of the output
static_assert(TILE == 16 && HEAD_DIM % WIDTH == 0);

// Which dimensions stand where in the products (gathered.cuh).
struct Dimensions {
    static constexpr int PAIRS_APART = 2, ROWS_APART = 1;
    static __device__ __forceinline__ int of_query(int slice, int lane) {
        return slice / (WIDTH / 4) * 4 * WIDTH + lane % 4 * WIDTH + slice % (WIDTH / 4) * 4;
    }
    static __device__ __forceinline__ int of_output(int output, int lane) {
        return output / (WIDTH / 2) * 8 * WIDTH + lane / 4 * WIDTH + output % (WIDTH / 2) * 2;
    }
};

#include "worker.cuh"

#include "gathered.cuh"

namespace {

// A cache [block, token, head, dim], strides in bytes.
struct Cache {
    const unsigned char* data;
    unsigned block, token, head;

    __device__ const unsigned char* at(int block_id, int offset, int kv_head) const {
        return data + static_cast<long long>(block_id) * block + static_cast<long long>(offset) * token +
               static_cast<long long>(kv_head) * head;
    }
};

// What a warp has to know to load a tile: where its tokens lie was looked up before.
struct Request {
    int block;      // of token lane % TILE
    int token;      // the first token's position; -1: no tile
    int head;       // key/value head
    int seen;       // the tokens of the tile that the query sees: none is read but these
    bool newest;    // whether the row's last token is in it

    static constexpr int ALL = TILE << 8;
    __device__ __forceinline__ void set_seen(int low, int high) { seen = low | high << 8; }
    __device__ __forceinline__ bool sees(int token) const { return token >= (seen & 255) && token < seen >> 8; }
};

constexpr bool ONE_BLOCK = BLOCK_SIZE % TILE == 0;  // a tile lies in one block

// Loads chunk by chunk, `apart` bytes apart, from `from` on; zeros where a chunk ends past the last dimension or the
// token is not seen.
template <int CHUNKS, int LANES>
__device__ __forceinline__ void load_chunks(uint4 (&to)[CHUNKS], const unsigned char* from, int lane_of, bool seen) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const bool whole = (chunk + 1) * LANES * WIDTH <= HEAD_DIM;
        if (seen && (whole || (chunk * LANES + lane_of) * WIDTH < HEAD_DIM))
            to[chunk] = ptx::load_once(from + chunk * LANES * 16);
        else to[chunk] = make_uint4(0, 0, 0, 0);
    }
}

// Calls load(i, address(i), seen) for `COUNT` tokens of the tile, token(i) each. Nearly every tile is seen as a whole,
// and has code of its own.
template <int COUNT, class Token, class Address, class Load>
__device__ __forceinline__ void each_address(const Request& request, Token token, Address address, Load load) {
    if (request.seen == Request::ALL) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) load(i, address(i), true);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) load(i, address(i), request.sees(token(i)));
    }
}

// The same with the tokens' addresses in `cache`.
template <int COUNT, class Token, class Load>
__device__ __forceinline__ void each_token(const Request& request, const Cache& cache, int lane, Token token, Load load) {
    if constexpr (ONE_BLOCK && TOKEN_BYTES > 0) {
        // Tokens lie a constant apart, so that addresses differ by constants.
        const unsigned char* first = cache.at(request.block, request.token % BLOCK_SIZE, request.head);
        const unsigned char* base = first + token(0) * TOKEN_BYTES;
        each_address<COUNT>(request, token, [&](int i) { return base + (token(i) - token(0)) * TOKEN_BYTES; }, load);
    } else {
        // Each lane knows where its own token lies, in units of 16 bytes, and tells the others.
        const int own = (request.token + lane % TILE) % BLOCK_SIZE;
        const auto place = static_cast<unsigned>((cache.at(request.block, own, request.head) - cache.data) / 16);
        unsigned places[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) places[i] = __shfl_sync(~0u, place, token(i));
        each_address<COUNT>(request, token, [&](int i) { return cache.data + places[i] * 16ull; }, load);
    }
}

struct Keys {
    uint4 row[2][KEY_CHUNKS];

    __device__ __forceinline__ void load(const Request& request, const Cache& cache, int lane) {
        if (request.token < 0) return;
        each_token<2>(request, cache, lane, [&](int i) { return lane / 4 + i * 8; },
                      [&](int i, const unsigned char* from, bool seen) {
                          load_chunks<KEY_CHUNKS, 4>(row[i], from + lane % 4 * 16, lane % 4, seen);
                      });
    }
    // The first factor of the product with slice `slice` of the query.
    __device__ __forceinline__ void factor(unsigned (&a)[4], int slice) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if constexpr (FP8) {
                const unsigned bytes = word(row[i][slice / 4], slice % 4);
                a[i] = halves_of_fp8(bytes);
                a[i + 2] = halves_of_fp8(bytes >> 16);
            } else {
                a[i] = word(row[i][slice / 2], slice % 2 * 2);
                a[i + 2] = word(row[i][slice / 2], slice % 2 * 2 + 1);
            }
        }
    }
};

struct Values {
    uint4 row[4][VALUE_CHUNKS];

    __device__ __forceinline__ void load(const Request& request, const Cache& cache, int lane) {
        if (request.token < 0) return;
        each_token<4>(request, cache, lane, [&](int i) { return lane % 4 * 2 + i % 2 + i / 2 * 8; },
                      [&](int i, const unsigned char* from, bool seen) {
                          load_chunks<VALUE_CHUNKS, 8>(row[i], from + lane / 4 * 16, lane / 4, seen);
                      });
    }
    // The first factor of product `output` of 16 dimensions (dimension_of).
    __device__ __forceinline__ void factor(unsigned (&a)[4], int output) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint4 &low = row[half * 2][output / (WIDTH / 2)], &high = row[half * 2 + 1][output / (WIDTH / 2)];
            if constexpr (FP8) {
                const int at = output % 8 / 2;
                const unsigned pairs = __byte_perm(word(low, at), word(high, at), output % 2 ? 0x7362 : 0x5140);
                a[half * 2] = halves_of_fp8(pairs);
                a[half * 2 + 1] = halves_of_fp8(pairs >> 16);
            } else {
                a[half * 2] = __byte_perm(word(low, output % 4), word(high, output % 4), 0x5410);
                a[half * 2 + 1] = __byte_perm(word(low, output % 4), word(high, output % 4), 0x7632);
            }
        }
    }
};
// A warp's part of the work: its tiles are numbers warp, warp + WARPS, ... of the share.
struct Reader {
    Queries queries;
    Cache keys, values;
    const TABLE_TYPE* table;
    long long table_stride;
    const int* lengths;
    int rows, window;
    float soft_cap;
    int warp, lane;

    Cursor ahead;      // of the next tile to look up;
    int left;          // tiles of the share from there on
    Request next;      // looked up, to be loaded as soon as registers are free
    Keys key[STAGES];
    Values value[STAGES];
    Query pair_query;
    Gathered gathered;

    // Where the tokens of the warp's next tile lie. A table entry is on its way for the time of one tile.
    __device__ __forceinline__ Request look_up() {
        Request request;
        request.token = -1;
        if (left <= 0) return request;
        request.token = ahead.tile * TILE;
        request.head = kv_head(ahead.head);
        request.newest = ahead.tile + 1 == ahead.span.end;
        const int low = max(0, ahead.span.oldest - request.token);
        const int high = min(TILE, ahead.span.length - request.token);
        request.set_seen(low, high);
        // Entries of tokens that are not seen may be anything, or lie outside the table.
        const int token = request.token + min(max(lane % TILE, low), high - 1);
        request.block = static_cast<int>(table[ahead.row * table_stride + token / BLOCK_SIZE]);
        left -= WARPS;
        if (left > 0) ahead.advance(WARPS);
        return request;
    }

    __device__ __forceinline__ void start(const Share& share) {
        ahead = Cursor(share, lengths, rows, window);
        left = share.tiles - warp;
        if (left > 0) ahead.advance(warp);
        Request first[STAGES];
#pragma unroll
        for (int i = 0; i < STAGES; i++) first[i] = look_up();
#pragma unroll
        for (int i = 0; i < STAGES; i++) {
            if (SETTLED && first[i].token >= 0 && first[i].newest) ptx::wait_for_earlier();
            key[i].load(first[i], keys, lane);
            value[i].load(first[i], values, lane);
        }
        next = look_up();
    }
    __device__ __forceinline__ void settle() const { ptx::wait_for_earlier(); }

    __device__ __forceinline__ void begin_pair(const Cursor& at) { queries.load(pair_query, at, lane); }

    __device__ __forceinline__ void read(Pairs<Reader>& pairs) {
        gathered.clear();
        int number = warp;
        for (int stage = 0;; stage = stage + 1 < STAGES ? stage + 1 : 0) {
            // The warps are at different stages here: their one barrier must not be copied into each.
            while (number >= pairs.end)
                if (!pairs.finish()) return;
            const int token = (pairs.at.tile + number - pairs.begin) * TILE;
            add_stage(stage, pairs.at.span.oldest - token, pairs.at.span.length - token);
            next = look_up();
            number += WARPS;
        }
    }

    // add() with the tile of a stage. Each has code of its own, so that tiles stay in registers.
    template <int place = 0> __device__ __forceinline__ void add_stage(int stage, int low, int high) {
        if constexpr (place + 1 < STAGES) {
            if (stage != place) return add_stage<place + 1>(stage, low, high);
        }
        add(key[place], value[place], low, high);
    }

    // Folds in a tile, of which the query sees the tokens from low to high - 1, and loads the next into its registers.
    __device__ __forceinline__ void add(Keys& key, Values& value, int low, int high) {
        float score[COLUMNS][4] = {};
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            unsigned a[4];
            key.factor(a, slice);
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) {
                unsigned b[2];
                pair_query.get(b, column, slice);
                ptx::multiply_add<BF16>(score[column], a, b);
            }
        }
        key.load(next, keys, lane);
        unsigned weight[COLUMNS][2];
        gathered.weigh(weight, score, pair_query, soft_cap, low, high, lane);
#pragma unroll
        for (int tile = 0; tile < OUTPUTS; tile++) {
            unsigned a[4];
            value.factor(a, tile);
#pragma unroll
            for (int column = 0; column < COLUMNS; column++)
                ptx::multiply_add<BF16>(gathered.output[column][tile], a, weight[column]);
        }
        value.load(next, values, lane);
    }

    // The present pair's sums; the next begins with none.
    __device__ __forceinline__ void store(WarpSums& sums) {
        gathered.store(sums, warp, lane);
        gathered.clear();
    }
};

}  // namespace

// query, output: [rows, query heads, HEAD_DIM], the output contiguous; strides of the query in elements. keys, values:
// caches, strides in bytes, rows 16-byte aligned. table: [rows, table_stride]. kv_heads: key/value heads; key_scale and
// value_scale [kv_heads], or one number with stride 0, or null; value_factor: of all values. parts: Parts of this grid. window, soft_cap: 0 is none.
extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM)
    decode(const Element* query, long long query_row, long long query_head, const unsigned char* keys,
           unsigned key_block, unsigned key_token, unsigned key_head, const unsigned char* values, unsigned value_block,
           unsigned value_token, unsigned value_head, const TABLE_TYPE* table, long long table_stride, int* plan_memory,
           float* parts_memory, Element* output, int rows, int kv_heads, float scale, float soft_cap, int window,
           const float* key_scale, int key_scale_stride, const float* value_scale, int value_scale_stride,
           float value_factor) {
    DYNAMIC_SHARED(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, heads = kv_heads * PARTS_OF_GROUP;
    if constexpr (!SETTLED) ptx::wait_for_earlier();
    ptx::let_later_start();
    const Plan plan(plan_memory, gridDim.x);
    WarpSums* warp_sums = reinterpret_cast<WarpSums*>(memory);  // two, then the queries of all warps
    Reader reader{{query, query_row, query_head, scale, {key_scale, key_scale_stride}},
                  {keys, key_block, key_token, key_head}, {values, value_block, value_token, value_head}, table,
                  table_stride, plan.lengths, rows, window, soft_cap, warp, lane};
    const Output to{output, kv_heads * GROUP, {value_scale, value_scale_stride}, value_factor};
    reader.pair_query.shared = reinterpret_cast<uint2*>(warp_sums + 2) + warp * COLUMNS * SLICES * 32 + lane;
    work(reader, plan, Parts(parts_memory, gridDim.x), to, warp_sums, rows, heads, window);
}
