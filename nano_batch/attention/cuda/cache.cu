// Keys and values between the tokens of a step and their slots in the paged cache, both ways.
//
// A slot is block * block_size + offset. A thread moves one vector (with ROPE: two, which rotate together) of
// the key and of the value of TOKENS neighbouring tokens; all its loads are independent, so that many bytes
// are under way. Neighbouring threads take neighbouring vectors of a token.
//
// Macros: NEW, the type of a token's elements; STORED, of the cache's, NEW or fp8; VEC, elements of a vector;
// ROPE, whether keys (and queries) are rotated; TOKENS; THREADS of a block.
#include "elements.cuh"
#include "ptx.cuh"

#include "slots.cuh"
#include "turn.cuh"

constexpr int PARTS = ROPE ? 2 : 1;  // vectors that rotate together: element d with d + head_dim / 2
constexpr bool SCALES = !Same<NEW, STORED>::value;
using New = Vector<NEW, VEC>;
using Stored = Vector<STORED, VEC>;

struct Sizes { int tokens, kv_heads, query_tokens, query_heads, lanes, block_size; long long num_slots; };
// lanes = head_dim / (VEC * PARTS), the threads of a head

__device__ inline unsigned own_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// The place of a thread, of those of so many heads: its head and vector, and the first of its tokens.
struct Place {
    int head, element, token;

    __device__ Place(unsigned thread, int heads, int lanes) {
        const unsigned columns = heads * lanes;
        const unsigned column = thread % columns;
        token = thread / columns * TOKENS;
        head = column / lanes;
        element = column % lanes * VEC;
    }
};

__device__ inline long long slot_start(long long slot, int block_size, int head, SlotStrides strides) {
    // Division of 64 bits takes many times the instructions of one of 32.
    const long long block = slot >> 32 ? slot / block_size : unsigned(slot) / unsigned(block_size);
    return strides.place(block, slot - block * block_size, head);
}

// The cosines and sines of the angles of one token's vector.
struct Angles {
    Vector<float, VEC> cosine, sine;

    __device__ Angles(const float* cosines, const float* sines, long long at) {
        cosine.load(cosines + at);
        sine.load(sines + at);
    }
    __device__ void rotate(float& first, float& second, int i) const { turn(first, second, cosine.at[i], sine.at[i]); }
};

__device__ inline void store(STORED* to, const New& from, float scale) {
    Stored stored;
#pragma unroll
    for (int i = 0; i < VEC; i++) stored.at[i] = stored_as<STORED>(from.at[i], scale);
    stored.store(to);
}

#if ROPE
__device__ inline void store_rotated(STORED* to, int half_dim, const New (&from)[PARTS], const Angles& angles,
                                     float scale) {
    Stored stored[PARTS];
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        float first = to_float(from[0].at[i]), second = to_float(from[1].at[i]);
        angles.rotate(first, second, i);
        stored[0].at[i] = from_float<STORED>(SCALES ? first / scale : first);
        stored[1].at[i] = from_float<STORED>(SCALES ? second / scale : second);
    }
    stored[0].store(to);
    stored[1].store(to + half_dim);
}

// The vectors of one query head of TOKENS tokens, all loaded before the first is stored.
__device__ inline void rotate_query(NEW* query, TokenStrides strides, int half_dim, const Place& place, int tokens,
                                    const long long* positions, const float* cosines, const float* sines) {
    New from[TOKENS][PARTS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (place.token + t >= tokens) continue;
        from[t][0].load(query + (place.token + t) * strides.token);
        from[t][1].load(query + (place.token + t) * strides.token + half_dim);
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const int token = place.token + t;
        if (token >= tokens) continue;
        const Angles angles(cosines, sines, positions[token] * half_dim + place.element);
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float first = to_float(from[t][0].at[i]), second = to_float(from[t][1].at[i]);
            angles.rotate(first, second, i);
            from[t][0].at[i] = from_float<NEW>(first);
            from[t][1].at[i] = from_float<NEW>(second);
        }
        from[t][0].store(query + token * strides.token);
        from[t][1].store(query + token * strides.token + half_dim);
    }
}
#endif

// keys, values [tokens, kv_heads, head_dim] -> their slots in the caches; a slot outside the cache, such as -1,
// writes nothing. With ROPE, keys are rotated on the way and query [query_tokens, query_heads, head_dim], of the
// first tokens, in place.
extern "C" __global__ void __launch_bounds__(THREADS) write_kv(
    const NEW* keys, TokenStrides key_strides, const NEW* values, TokenStrides value_strides,
    STORED* key_cache, SlotStrides key_slot, STORED* value_cache, SlotStrides value_slot,
    const long long* slots,      // [tokens]
    const float* key_scales,     // [kv_heads], read only when STORED is fp8
    const float* value_scales,   // [kv_heads]
    const long long* positions,  // [tokens], read only with ROPE, as are all below
    const float* cosines, const float* sines,  // [positions, head_dim / 2]
    NEW* query, TokenStrides query_strides, Sizes sizes) {
    ptx::let_later_start();
    ptx::wait_for_earlier();
    const int half_dim = sizes.lanes * VEC;
    const unsigned thread = own_thread();
    const unsigned of_keys = (unsigned(sizes.tokens) + TOKENS - 1) / TOKENS * sizes.kv_heads * sizes.lanes;
    const bool queries = ROPE && sizes.query_heads > 0 && thread >= of_keys;
    const Place place(queries ? thread - of_keys : thread, queries ? sizes.query_heads : sizes.kv_heads, sizes.lanes);
#if ROPE
    if (queries) {
        NEW* of_head = query + place.head * query_strides.head + place.element;
        rotate_query(of_head, query_strides, half_dim, place, sizes.query_tokens, positions, cosines, sines);
        return;
    }
#endif
    New key[TOKENS][PARTS], value[TOKENS][PARTS];
    long long slot[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const int token = place.token + t;
        slot[t] = -1;
        if (token >= sizes.tokens) continue;
        slot[t] = slots[token];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const int element = place.element + part * half_dim;
            key[t][part].load(keys + token * key_strides.token + place.head * key_strides.head + element);
            value[t][part].load(values + token * value_strides.token + place.head * value_strides.head + element);
        }
    }
    const float key_scale = SCALES ? key_scales[place.head] : 1;
    const float value_scale = SCALES ? value_scales[place.head] : 1;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (slot[t] < 0 || slot[t] >= sizes.num_slots) continue;
        STORED* key_to = key_cache + place.element + slot_start(slot[t], sizes.block_size, place.head, key_slot);
        STORED* value_to =
            value_cache + place.element + slot_start(slot[t], sizes.block_size, place.head, value_slot);
#if ROPE
        const Angles angles(cosines, sines, positions[place.token + t] * half_dim + place.element);
        store_rotated(key_to, half_dim, key[t], angles, key_scale);
#else
        store(key_to, key[t][0], key_scale);
#endif
#pragma unroll
        for (int part = 0; part < PARTS; part++) store(value_to + part * half_dim, value[t][part], value_scale);
    }
}

#if !ROPE
__device__ inline void load(New& to, const STORED* from, float scale) {
    Stored stored;
    stored.load(from);
#pragma unroll
    for (int i = 0; i < VEC; i++) to.at[i] = read_as<NEW>(stored.at[i], scale);
}

// The slots of the caches -> keys, values [tokens, kv_heads, head_dim]; zeros for a slot outside the cache.
extern "C" __global__ void __launch_bounds__(THREADS) gather_kv(
    NEW* keys, TokenStrides key_strides, NEW* values, TokenStrides value_strides,
    const STORED* key_cache, SlotStrides key_slot, const STORED* value_cache, SlotStrides value_slot,
    const long long* slots,     // [tokens]
    const float* key_scales,    // [kv_heads], read only when STORED is fp8
    const float* value_scales,  // [kv_heads]
    Sizes sizes) {
    ptx::let_later_start();
    ptx::wait_for_earlier();
    const Place place(own_thread(), sizes.kv_heads, sizes.lanes);
    const float key_scale = SCALES ? key_scales[place.head] : 1;
    const float value_scale = SCALES ? value_scales[place.head] : 1;
    New key[TOKENS], value[TOKENS];
    long long slot[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) slot[t] = place.token + t < sizes.tokens ? slots[place.token + t] : -1;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
#pragma unroll
        for (int i = 0; i < New::ACCESSES; i++) key[t].words[i] = value[t].words[i] = {};
        if (slot[t] < 0 || slot[t] >= sizes.num_slots) continue;
        const long long key_from = slot_start(slot[t], sizes.block_size, place.head, key_slot) + place.element;
        const long long value_from = slot_start(slot[t], sizes.block_size, place.head, value_slot) + place.element;
        load(key[t], key_cache + key_from, key_scale);
        load(value[t], value_cache + value_from, value_scale);
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const int token = place.token + t;
        if (token >= sizes.tokens) return;
        key[t].store(keys + token * key_strides.token + place.head * key_strides.head + place.element);
        value[t].store(values + token * value_strides.token + place.head * value_strides.head + place.element);
    }
}
#endif
