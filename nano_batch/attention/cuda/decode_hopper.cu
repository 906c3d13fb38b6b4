// One query a sequence over a paged cache, on tensor cores, of tiles that Hopper's copy engine brings.
//
// A block has a multiprocessor and is a worker: it reads its share of the plan (walk.cuh). One warp has the share's tiles
// copied to shared memory, a ring of STAGES of them, and the WARPS others take them by turns. So what is on its way depends
// neither on registers nor on the cache, and memory is busy while warps put together what they have gathered of a pair. Query
// heads of a key/value head, up to 8 a matrix, are the columns of one product:
//     scores^T [16 tokens, heads] = K [16, HEAD_DIM] Q^T,  output^T [HEAD_DIM, heads] += V^T [HEAD_DIM, 16] P^T.
// All that it reads but the queries and each row's newest key and value was there before the kernel before this one began, so
// that the first tiles are on their way while that one ends.
//
// WRITES: queries and newest keys come as a model's product leaves them, and nothing is read late from the cache. Whoever has a
// row's last tile turns its newest key, puts it and the value into the tile, and writes both to the cache; queries are turned
// where they are loaded.
#define HOPPER 1
#include "hopper.cuh"
#include "ptx.cuh"

#include "element.cuh"
#include "slots.cuh"

constexpr int SLICES = HEAD_DIM / 16, OUTPUTS = HEAD_DIM / 16;  // products of 16 dimensions: for the scores, of the output
constexpr int PANEL_BYTES = TILE * 128, TILE_BYTES = HEAD_DIM / 64 * PANEL_BYTES, STAGE_BYTES = 2 * TILE_BYTES;
static_assert(TILE == 16 && HEAD_DIM % 64 == 0 && BLOCK_SIZE % TILE == 0 && !FP8);
// A stage is always of the same warp: another could take the phase of the tile before for that of its own.
static_assert(STAGES % WARPS == 0);

// Which dimensions stand where in the products (gathered.cuh).
struct Dimensions {
    static constexpr int PAIRS_APART = 8, ROWS_APART = 8;
    static __device__ __forceinline__ int of_query(int slice, int lane) { return slice * 16 + lane % 4 * 2; }
    static __device__ __forceinline__ int of_output(int output, int lane) { return output * 16 + lane / 4; }
};

#include "worker.cuh"

#include "gathered.cuh"

namespace {

// Tiles in shared memory, each first its keys, then its values.
struct Ring {
    unsigned char* stages;
    hopper::Barrier *full, *empty;

    __device__ __forceinline__ unsigned char* keys(int stage) const { return stages + stage * STAGE_BYTES; }
    __device__ __forceinline__ unsigned char* values(int stage) const { return keys(stage) + TILE_BYTES; }
};

// Where sixteen bytes of a token lie in a tile of keys or values, as the copy engine leaves them.
__device__ __forceinline__ int place(int token, int piece) {
    return piece / 8 * PANEL_BYTES + token * 128 + (piece % 8 ^ token % 8) * 16;
}

// Has all tiles of a share copied, by one warp. Its lanes look up where so many lie, a tile each, while those before are asked
// for. The first are of one pair, so that what they wait for is not the length of another row.
struct Copier {
    const TensorMap &key_map, &value_map;
    const TABLE_TYPE* table;
    long long table_stride;
    Share share;
    Cursor at;        // of the lane's tile that was looked up last
    int reached = 0;  // its number in the share

    struct Found {
        int block, place;  // the block's id; of the tile in it: its first token, and head and whether it is the row's newest
    };

    __device__ __forceinline__ Found look_up(int number) {
        if (number >= share.tiles) return {};
        at.advance(number - reached);
        reached = number;
        const int token = at.tile * TILE, newest = at.tile + 1 == at.span.end;
        return {static_cast<int>(table[at.row * table_stride + token / BLOCK_SIZE]),
                token % BLOCK_SIZE << 16 | kv_head(at.head) << 1 | newest};
    }

    __device__ __forceinline__ void copy(const Ring& ring) {
        const bool one = hopper::elected();
        const int lane = threadIdx.x % 32;
        bool waits = !WRITES;  // in the cache is then all that is copied
        int stage = 0, round = 1, count = min(32, min(share.tiles, at.span.end - at.tile));
        Found next = look_up(lane < count ? lane : share.tiles);
        for (int first = 0; first < share.tiles; first += count, count = min(32, share.tiles - first)) {
            const Found found = next;
            for (int i = 0; i < count; i++) {
                if (i == min(LOOKS_UP, count - 1)) next = look_up(first + count + lane);
                const int block = __shfl_sync(~0u, found.block, i), where = __shfl_sync(~0u, found.place, i);
                if (waits && where & 1) {
                    ptx::wait_for_earlier();
                    waits = false;
                }
                if (first + i >= STAGES) ring.empty[stage].wait(round);
                if (one) {
                    hopper::Barrier& full = ring.full[stage];
                    const int offset = where >> 16, head = where >> 1 & 0x7fff;
                    full.expect(STAGE_BYTES);
                    hopper::load_tile(ring.keys(stage), key_map, offset, head, block, full);
                    hopper::load_tile(ring.values(stage), value_map, offset, head, block, full);
                }
                if (++stage == STAGES) stage = 0, round ^= 1;
            }
        }
    }

    static constexpr int LOOKS_UP = 8;  // the first tiles do not wait for the second look
};

// Each row's newest key and value, where they go, in which of so many blocks, and the turns of all positions, [positions,
// HEAD_DIM / 2].
struct Newest {
    const Element *keys, *values;
    Element *key_cache, *value_cache;
    const float *cosines, *sines;
    TokenStrides key, value;
    SlotStrides key_slot, value_slot;
    long long blocks;
};

// A pair's newest key and value: a lane has two neighbours of the first half of the dimensions, and the same of the second.
struct NewestOfPair {
    static constexpr int LANES = HEAD_DIM / 4, APART = HEAD_DIM / 2;

    unsigned key[2], value[2];
    float2 cosine, sine;
    long long block;

    // Asks for them; they are there when they are put somewhere.
    __device__ __forceinline__ void load(const Newest& from, const TABLE_TYPE* table, long long table_stride, const Cursor& at,
                                         int lane) {
        if (lane >= LANES) return;
        const int dim = lane * 2, position = at.span.length - 1, head = kv_head(at.head);
        const Element* keys = from.keys + at.row * from.key.token + head * from.key.head + dim;
        const Element* values = from.values + at.row * from.value.token + head * from.value.head + dim;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            key[half] = *reinterpret_cast<const unsigned*>(keys + half * APART);
            value[half] = *reinterpret_cast<const unsigned*>(values + half * APART);
        }
        const long long angle = static_cast<long long>(position) * APART + dim;
        cosine = *reinterpret_cast<const float2*>(from.cosines + angle), sine = *reinterpret_cast<const float2*>(from.sines + angle);
        block = table[at.row * table_stride + position / BLOCK_SIZE];
    }

    // Into the tile, of which it is `token`, and into the cache.
    __device__ __forceinline__ void put(const Newest& to, unsigned char* keys, unsigned char* values, const Cursor& at, int token,
                                        int lane) {
        if (lane >= LANES) return;
        turn_words(key[0], key[1], cosine, sine);
        const int dim = lane * 2, head = kv_head(at.head), offset = (at.span.length - 1) % BLOCK_SIZE;
        const bool writes = at.head % PARTS_OF_GROUP == 0 && block >= 0 && block < to.blocks;  // or its neighbour does, or nobody
        Element* key_to = to.key_cache + to.key_slot.place(block, offset, head) + dim;
        Element* value_to = to.value_cache + to.value_slot.place(block, offset, head) + dim;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int there = place(token, (dim + half * APART) / 8) + dim % 8 * 2;
            *reinterpret_cast<unsigned*>(keys + there) = key[half];
            *reinterpret_cast<unsigned*>(values + there) = value[half];
            if (!writes) continue;
            *reinterpret_cast<unsigned*>(key_to + half * APART) = key[half];
            *reinterpret_cast<unsigned*>(value_to + half * APART) = value[half];
        }
    }
};

// The turn of a pair's query, whose numbers and angles are on their way until the first tile is there.
struct TurnOfQuery {
    float2 cosine[SLICES / 2][2], sine[SLICES / 2][2];
    bool due;

    __device__ __forceinline__ void load(const Newest& from, const Cursor& at, int lane) {
        const long long angles = (at.span.length - 1ll) * (HEAD_DIM / 2);
#pragma unroll
        for (int slice = 0; slice < SLICES / 2; slice++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const long long angle = angles + Dimensions::of_query(slice, lane) + half * Dimensions::PAIRS_APART;
                cosine[slice][half] = *reinterpret_cast<const float2*>(from.cosines + angle);
                sine[slice][half] = *reinterpret_cast<const float2*>(from.sines + angle);
            }
        due = true;
    }
    __device__ __forceinline__ void apply(Query& query) {
        if (!due) return;
        due = false;
#pragma unroll
        for (int column = 0; column < COLUMNS; column++)
#pragma unroll
            for (int slice = 0; slice < SLICES / 2; slice++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    turn_words(query.registers[column][slice][half], query.registers[column][slice + SLICES / 2][half],
                               cosine[slice][half], sine[slice][half]);
    }
};

// A warp's part of the work: its tiles are numbers warp, warp + WARPS, ... of the share.
struct Reader {
    Ring ring;
    Queries queries;
    float soft_cap;
    int warp, lane;
    const Newest& newest;
    const TABLE_TYPE* table;
    long long table_stride;

    Query pair_query;
    TurnOfQuery turn_of_query;
    NewestOfPair newest_of_pair;
    Gathered gathered;

    __device__ __forceinline__ void start(const Share&) const {}
    __device__ __forceinline__ void settle() const { ptx::wait_for_earlier(); }

    __device__ __forceinline__ void begin_pair(const Cursor& at) {
        queries.load(pair_query, at, lane);
        if constexpr (WRITES) {
            turn_of_query.load(newest, at, lane);
            newest_of_pair.load(newest, table, table_stride, at, lane);
        }
    }

    __device__ __forceinline__ void read(Pairs<Reader>& pairs) {
        gathered.clear();
        int number = warp, stage = warp, round = 0;
        while (true) {
            while (number >= pairs.end)
                if (!pairs.finish()) return;
            const int token = (pairs.at.tile + number - pairs.begin) * TILE;
            ring.full[stage].wait(round);
            const int last = pairs.at.span.length - 1 - token;
            const bool puts = WRITES && last < TILE;
            if constexpr (WRITES) turn_of_query.apply(pair_query);
            if (puts) {
                newest_of_pair.put(newest, ring.keys(stage), ring.values(stage), pairs.at, last, lane);
                __syncwarp();
            }
            add(stage, pairs.at.span.oldest - token, pairs.at.span.length - token);
            if (puts) hopper::writes_are_seen();  // by the copy that follows
            __syncwarp();
            if (lane == 0) ring.empty[stage].arrive();
            number += WARPS, stage += WARPS;
            if (stage >= STAGES) stage = warp, round ^= 1;
        }
    }

    // Folds in a tile, of which the query sees the tokens from low to high - 1.
    __device__ __forceinline__ void add(int stage, int low, int high) {
        const unsigned char *keys = ring.keys(stage), *values = ring.values(stage);
        float score[COLUMNS][4] = {};
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            unsigned a[4];
            ptx::load_matrices(a, keys + place(lane % 16, slice * 2 + lane / 16));
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) {
                unsigned b[2];
                pair_query.get(b, column, slice);
                ptx::multiply_add<BF16>(score[column], a, b);
            }
        }
        unsigned weight[COLUMNS][2];
        gathered.weigh(weight, score, pair_query, soft_cap, low, high, lane);
        // What lies where no token is seen may be no number, and its weight of 0 would not hide that.
        unsigned seen[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int token = half * 8 + lane % 4 * 2;
            seen[half] = (token >= low && token < high ? 0xffffu : 0) | (token + 1 >= low && token + 1 < high ? 0xffff0000u : 0);
        }
#pragma unroll
        for (int output = 0; output < OUTPUTS; output++) {
            unsigned a[4];
            ptx::load_transposed(a, values + place(lane / 16 * 8 + lane % 8, output * 2 + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] &= seen[i / 2];
#pragma unroll
            for (int column = 0; column < COLUMNS; column++)
                ptx::multiply_add<BF16>(gathered.output[column][output], a, weight[column]);
        }
    }

    // The present pair's sums; the next begins with none.
    __device__ __forceinline__ void store(WarpSums& sums) {
        gathered.store(sums, warp, lane);
        gathered.clear();
    }
};

}  // namespace

// As `decode` in decode.cu, but for the caches, which come as maps of [blocks, heads, HEAD_DIM / 64, BLOCK_SIZE, 64]. newest:
// read only with WRITES.
extern "C" __global__ void __launch_bounds__(WARPS * 32 + 32, 1)
    decode(const Element* query, long long query_row, long long query_head, const __grid_constant__ TensorMap key_map,
           const __grid_constant__ TensorMap value_map, const TABLE_TYPE* table, long long table_stride, int* plan_memory,
           float* parts_memory, Element* output, int rows, int kv_heads, float scale, float soft_cap, int window,
           const float* key_scale, int key_scale_stride, const float* value_scale, int value_scale_stride,
           float value_factor, const __grid_constant__ Newest newest) {
    DYNAMIC_SHARED(unaligned);
    __shared__ hopper::Barrier full[STAGES], empty[STAGES];
    ptx::let_later_start();
    const Ring ring{hopper::aligned(unaligned), full, empty};
    WarpSums* warp_sums = reinterpret_cast<WarpSums*>(ring.stages + STAGES * STAGE_BYTES);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(1);
        hopper::barriers_are_ready();
    }
    __syncthreads();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const Plan plan(plan_memory, gridDim.x);
    if (warp == WARPS) {
        const Share share = plan.shares[blockIdx.x];
        if (share.tiles > 0) {
            Copier copier{key_map, value_map, table, table_stride, share, Cursor(share, plan.lengths, rows, window)};
            copier.copy(ring);
        }
        return;
    }
    const Queries queries{query, query_row, query_head, scale, {key_scale, key_scale_stride}};
    Reader reader{ring, queries, soft_cap, warp, lane, newest, table, table_stride};
    const Output to{output, kv_heads * GROUP, {value_scale, value_scale_stride}, value_factor};
    work(reader, plan, Parts(parts_memory, gridDim.x), to, warp_sums, rows, kv_heads * PARTS_OF_GROUP, window);
}
