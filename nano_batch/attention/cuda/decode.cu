// One query a sequence over a paged cache, on tensor cores.
//
// A block of WARPS warps is a worker: it reads its share of the plan (walk.cuh). Tile after tile of a share goes to the
// warps by turns, and each warp keeps a ring of STAGES tiles of its own on their way to shared memory: it never waits
// for another warp but where a pair ends, and by then the keys of the next pair are under way. All query heads of a
// key/value head, up to 8 a matrix, are the columns of one product, so that each key is read once:
//     scores^T [TILE tokens, heads] = K [TILE, HEAD_DIM] Q^T,  output^T [HEAD_DIM, heads] += V^T [HEAD_DIM, TILE] P^T.
// Running softmax: Milakov and Gimelshein (2018); splitting a context over blocks: Dao et al., "Flash-Decoding" (2023).
#include "ptx.cuh"

#include "element.cuh"

constexpr int COLUMNS = (HEADS + 7) / 8;            // matrices of 8 heads
constexpr int ROW_BYTES = HEAD_DIM * (FP8 ? 1 : 2);
constexpr int PIECES = ROW_BYTES / 16;              // 16-byte pieces of a key
// Between rows in shared memory: an odd number of 16-byte pieces, so that ldmatrix meets no bank twice. (Pieces that
// change places within rows of 256 bytes meet none either, and are slower by a tenth: docs/notes/attention.md.)
constexpr int PITCH = ROW_BYTES + 16;
constexpr int TILE_BYTES = TILE * PITCH;
constexpr int STAGE_BYTES = 2 * TILE_BYTES;         // keys, then values
constexpr int SLICES = HEAD_DIM / 16;
constexpr int MATRICES = TILE / 16;                 // of 16 tokens
constexpr bool BF16 = ELEMENT == 1 && !FP8;         // a float8 cache is multiplied as float16
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(HEAD_DIM % 16 == 0 && TILE % 16 == 0 && (!FP8 || TILE == 32));

#include "worker.cuh"

namespace {

// Byte strides of a cache [block, token, head, dim].
struct Strides {
    unsigned block, token, head;
};

struct Cache {
    const unsigned char* data;
    Strides strides;

    __device__ const unsigned char* at(int block, int token, int head) const {
        return data + static_cast<long long>(block) * strides.block + static_cast<long long>(token) * strides.token +
               static_cast<long long>(head) * strides.head;
    }
};

// What a warp has to know to ask for a tile: where its tokens lie was looked up before.
struct Request {
    int block;      // of token lane % TILE
    int token;      // the first token's position; -1: no tile
    int head;       // key/value head
    int low, high;  // the tokens of the tile that the query sees
};

// Asks for a tile of keys and values. Tokens that the query does not see become zeros, and are not read.
__device__ __forceinline__ void ask(const Request& request, unsigned char* stage, const Cache& keys,
                                    const Cache& values, int lane) {
    if (request.token < 0) return;
    if constexpr (BLOCK_SIZE % TILE == 0 && TOKEN_BYTES > 0 && 32 % PIECES == 0) {
        // A whole tile of one block, whose tokens lie a constant apart: addresses differ by constants.
        if (request.low == 0 && request.high == TILE) {
            constexpr int TOKENS = 32 / PIECES;  // of one copy of the warp
            const int offset = request.token % BLOCK_SIZE, within = lane / PIECES * TOKEN_BYTES + lane % PIECES * 16;
            const unsigned char* key = keys.at(request.block, offset, request.head) + within;
            const unsigned char* value = values.at(request.block, offset, request.head) + within;
#pragma unroll
            for (int i = 0; i < TILE / TOKENS; i++) {
                unsigned char* to = stage + (i * TOKENS + lane / PIECES) * PITCH + lane % PIECES * 16;
                ptx::copy_async(to, key + i * TOKENS * TOKEN_BYTES);
                ptx::copy_async(to + TILE_BYTES, value + i * TOKENS * TOKEN_BYTES);
            }
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < TILE * PIECES / 32; i++) {
        const int number = i * 32 + lane, token = number / PIECES, piece = number % PIECES;
        const bool seen = token >= request.low && token < request.high;
        const int entry = __shfl_sync(~0u, request.block, BLOCK_SIZE % TILE == 0 ? 0 : token);
        const int block = seen ? entry : 0, offset = (request.token + token) % BLOCK_SIZE;
        unsigned char* to = stage + token * PITCH + piece * 16;
        ptx::copy_async(to, keys.at(block, offset, request.head) + piece * 16, seen);
        ptx::copy_async(to + TILE_BYTES, values.at(block, offset, request.head) + piece * 16, seen);
    }
}

// A pair's query heads as the second factor of the scores, two registers a slice of 16 dimensions.
struct Query {
    unsigned part[COLUMNS][SLICES][2];
    float factor[COLUMNS][2];  // what the scores of columns 2 (lane % 4) and the next still have to be multiplied by

    // row: the pair's first query head; `heads` of them are real.
    __device__ void load(const Element* row, long long head_stride, int heads, int lane) {
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            const int head = column * 8 + lane / 4;
            const Element* at = row + head * head_stride;
            if constexpr (FP8) load_for_fp8(at, head < heads, column, lane);
            else {
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        part[column][slice][half] =
                            head < heads
                                ? *reinterpret_cast<const unsigned*>(at + slice * 16 + half * 8 + lane % 4 * 2)
                                : 0;
                factor[column][0] = factor[column][1] = 1;
            }
        }
    }

  private:
    // As float16, scaled by a power of two so that no number is too large for it. Dimensions stand in the order in
    // which `scores` finds the keys'.
    __device__ void load_for_fp8(const Element* at, bool real, int column, int lane) {
        float number[SLICES][4], most = 0;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                number[slice][i] = real ? to_float(at[slice * 16 + lane % 4 * 4 + i]) : 0;
                most = fmaxf(most, fabsf(number[slice][i]));
            }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const int exponent = most > 0 ? min(max(ilogbf(most), -126), 126) : 0;
        const float down = ldexpf(1.0f, -exponent), up = ldexpf(FP8_UNIT, exponent);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            part[column][slice][0] = pack<false>(number[slice][0] * down, number[slice][2] * down);
            part[column][slice][1] = pack<false>(number[slice][1] * down, number[slice][3] * down);
        }
        factor[column][0] = __shfl_sync(~0u, up, lane % 4 * 8);
        factor[column][1] = __shfl_sync(~0u, up, lane % 4 * 8 + 4);
    }
};

// The first factors of products with 16 tokens' keys (dimensions 16 slice to 16 slice + 15) ...
__device__ __forceinline__ void load_keys(unsigned (&a)[MATRICES][4], const unsigned char* keys, int slice, int lane) {
    if constexpr (FP8) {
        unsigned bytes[4];  // tokens 8 i + lane / 4, dimensions 4 (lane % 4) to 4 (lane % 4) + 3
        ptx::load_matrices(bytes, keys + lane * PITCH + slice * 16);
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                a[matrix][i] = halves_of_fp8(bytes[matrix * 2 + i] << 8);
                a[matrix][i + 2] = halves_of_fp8(bytes[matrix * 2 + i]);
            }
    } else {
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; matrix++)
            ptx::load_matrices(a[matrix], keys + (matrix * 16 + lane % 16) * PITCH + slice * 32 + lane / 16 * 16);
    }
}
// ... and with their values, transposed. With a float8 cache row r of the product is dimension 2 r, and row r + 8 the
// next one, for r < 8.
__device__ __forceinline__ void load_values(unsigned (&a)[MATRICES][4], const unsigned char* values, int slice,
                                            int lane) {
    if constexpr (FP8) {
        unsigned bytes[4];  // tokens 8 i + 2 (lane % 4) and the next, dimensions 2 (lane / 4) and the next of each
        ptx::load_matrices_transposed(bytes, values + lane * PITCH + slice * 16);
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                a[matrix][i * 2] = halves_of_fp8(bytes[matrix * 2 + i] << 8);
                a[matrix][i * 2 + 1] = halves_of_fp8(bytes[matrix * 2 + i]);
            }
    } else {
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; matrix++) {
            const int token = matrix * 16 + lane % 8 + lane / 16 * 8;
            ptx::load_matrices_transposed(a[matrix], values + token * PITCH + slice * 32 + lane / 8 % 2 * 16);
        }
    }
}

// What a warp has gathered of a pair. Of each number in a lane's registers the head is 8 column + 2 (lane % 4), or
// the next one for odd places; rows are tokens or dimensions, lane / 4 and 8 more for the last two places.
struct Gathered {
    float output[COLUMNS][SLICES][4];
    float largest[COLUMNS][2];  // of all scores so far, in powers of two
    float total[COLUMNS][2];    // of the weights of this lane's tokens

    __device__ void clear() {
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int i = 0; i < 2; i++) largest[column][i] = NOTHING, total[column][i] = 0;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                for (int i = 0; i < 4; i++) output[column][slice][i] = 0;
        }
    }

    // Folds in a tile, of which the query sees the tokens from low to high - 1.
    __device__ __forceinline__ void add(const Query& query, const unsigned char* stage, float scale, float soft_cap, int low,
                        int high, int lane) {
        float score[COLUMNS][MATRICES][4] = {};
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            unsigned keys[MATRICES][4];
            load_keys(keys, stage, slice, lane);
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
                for (int column = 0; column < COLUMNS; column++)
                    ptx::multiply_add<BF16>(score[column][matrix], keys[matrix], query.part[column][slice]);
        }
        const bool partly = low > 0 || high < TILE;
        unsigned weight[COLUMNS][MATRICES][2];
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            float most[2] = {NOTHING, NOTHING};
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& at = score[column][matrix][i];
                    const float product = at * (FP8 ? query.factor[column][i % 2] : 1.0f) * scale;
                    at = SOFT_CAP ? soft_cap * LOG2_E * tanhf(product / soft_cap) : product * LOG2_E;
                    const int token = matrix * 16 + i / 2 * 8 + lane / 4;
                    if (partly && (token < low || token >= high)) at = NOTHING;
                    most[i % 2] = fmaxf(most[i % 2], at);
                }
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int step = 4; step < 32; step *= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(~0u, most[i], step));
                most[i] = fmaxf(most[i], largest[column][i]);  // finite: a tile has a token that is seen
            }
            if (__any_sync(~0u, most[0] > largest[column][0] || most[1] > largest[column][1])) {
                const float keep[2] = {ptx::exp2(largest[column][0] - most[0]), ptx::exp2(largest[column][1] - most[1])};
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int i = 0; i < 4; i++) output[column][slice][i] *= keep[i % 2];
#pragma unroll
                for (int i = 0; i < 2; i++) total[column][i] *= keep[i], largest[column][i] = most[i];
            }
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float* at = &score[column][matrix][half * 2];
#pragma unroll
                    for (int i = 0; i < 2; i++) total[column][i] += at[i] = ptx::exp2(at[i] - largest[column][i]);
                    weight[column][matrix][half] = ptx::transpose(pack<BF16>(at[0], at[1]));
                }
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            unsigned values[MATRICES][4];
            load_values(values, stage + TILE_BYTES, slice, lane);
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; matrix++)
#pragma unroll
                for (int column = 0; column < COLUMNS; column++)
                    ptx::multiply_add<BF16>(output[column][slice], values[matrix], weight[column][matrix]);
        }
    }

    __device__ void store(WarpSums& sums, int warp, int lane) const {
#pragma unroll
        for (int column = 0; column < COLUMNS; column++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float sum = total[column][i];
#pragma unroll
                for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
                const int head = column * 8 + lane % 4 * 2 + i;
                if (head >= HEADS) continue;
                if (lane < 4) sums.largest[warp][head] = largest[column][i], sums.total[warp][head] = sum;
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int dim = FP8 ? lane / 4 * 2 + half : lane / 4 + half * 8;
                        sums.value[warp][head][slice * 16 + dim] = output[column][slice][half * 2 + i];
                    }
            }
    }
};

// A warp's part of the work: its tiles are numbers warp, warp + WARPS, ... of the share.
struct Reader {
    const Element* query;
    long long query_row, query_head;
    Cache keys, values;
    const TABLE_TYPE* table;
    long long table_stride;
    const int* lengths;
    int rows, window;
    float scale, soft_cap;
    Scales key_scale;
    unsigned char* ring;  // the warp's STAGES stages
    int warp, lane;

    Cursor ahead;      // of the next tile to look up,
    int ahead_number;  // its number in the share
    int share_tiles;
    Request next;      // looked up, to be asked for as soon as a stage is free
    int number, stage; // of the next tile to take
    Query pair_query;
    Gathered gathered;

    // Where the tokens of the warp's next tile lie. A table entry is on its way for the time of one tile.
    __device__ __forceinline__ Request look_up() {
        Request request;
        request.token = -1;
        if (ahead_number >= share_tiles) return request;
        request.token = ahead.tile * TILE;
        request.head = kv_head(ahead.head);
        request.low = max(0, ahead.span.oldest - request.token);
        request.high = min(TILE, ahead.span.length - request.token);
        // Entries of tokens that are not seen may be anything, or lie outside the table.
        const int token = request.token + min(max(lane % TILE, request.low), request.high - 1);
        request.block = static_cast<int>(table[ahead.row * table_stride + token / BLOCK_SIZE]);
        ahead_number += WARPS;
        if (ahead_number < share_tiles) ahead.advance(WARPS);
        return request;
    }

    __device__ __forceinline__ void start(const Share& share) {
        ahead = Cursor(share, lengths, rows, window);
        share_tiles = share.tiles;
        ahead_number = number = warp;
        stage = 0;
        if (warp < share_tiles) ahead.advance(warp);
        Request first[STAGES];
#pragma unroll
        for (int i = 0; i < STAGES; i++) first[i] = look_up();
#pragma unroll
        for (int i = 0; i < STAGES; i++) {
            ask(first[i], ring + i * STAGE_BYTES, keys, values, lane);
            ptx::commit();
        }
        next = look_up();
    }

    __device__ __forceinline__ void begin_pair(const Cursor& at) {
        pair_query.load(query + at.row * query_row + first_query_head(at.head) * query_head, query_head,
                        query_heads(at.head), lane);
    }

    __device__ __forceinline__ void read(const Cursor& at, int done, int tiles) {
        const float factor = scale * key_scale.at(at.head);
        gathered.clear();
        for (; number < done + tiles; number += WARPS) {
            ptx::wait<STAGES - 1>();
            __syncwarp();
            const int token = (at.tile + number - done) * TILE;
            gathered.add(pair_query, ring + stage * STAGE_BYTES, factor, soft_cap, at.span.oldest - token,
                         at.span.length - token, lane);
            __syncwarp();
            ask(next, ring + stage * STAGE_BYTES, keys, values, lane);
            ptx::commit();
            next = look_up();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    }

    __device__ __forceinline__ void store(WarpSums& sums, int warp, int lane) const { gathered.store(sums, warp, lane); }
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
    ptx::wait_for_earlier();
    ptx::let_later_start();
    const Plan plan(plan_memory, gridDim.x);
    Reader reader{query, query_row, query_head, {keys, {key_block, key_token, key_head}},
                  {values, {value_block, value_token, value_head}}, table, table_stride, plan.lengths, rows, window,
                  scale, soft_cap, {key_scale, key_scale_stride}, memory + warp * STAGES * STAGE_BYTES, warp, lane};
    const Output to{output, kv_heads * GROUP, {value_scale, value_scale_stride}, FP8 ? FP8_UNIT * value_factor : value_factor};
    WarpSums* warp_sums = reinterpret_cast<WarpSums*>(memory + WARPS * STAGES * STAGE_BYTES);
    work(reader, plan, Parts(parts_memory, gridDim.x), to, warp_sums, rows, heads, window);
}
