// The two products of `prefill.cu`: by each warp for its 16 rows or, with HOPPER, by four warps together, which read keys
// and values where they lie in shared memory.
#pragma once
#include "ptx.cuh"

#include "element.cuh"
#if HOPPER
#include "hopper.cuh"
#endif

constexpr int PIECES = HEAD_DIM / 8;  // of 16 bytes, in a key
constexpr int SLICES = HEAD_DIM / 16, COLUMNS = HEAD_DIM / 8, SCORES = KEYS / 8;
constexpr int PANEL_BYTES = KEYS * 128, TILE_BYTES = KEYS * HEAD_DIM * 2;
constexpr bool BF16 = ELEMENT == 1;
static_assert(PIECES % 8 == 0);

namespace {

// Where a piece of a key lies in its tile, which is panels of eight pieces of all keys: the same pieces of eight keys lie
// in eight different groups of banks, and all where Hopper's products look for them.
__device__ __forceinline__ int place(int key, int piece) {
    return piece / 8 * PANEL_BYTES + key * 128 + (piece % 8 ^ key % 8) * 16;
}

#if HOPPER

static_assert(KEYS == 64 && TILE_BYTES % 1024 == 0);

__device__ __forceinline__ unsigned char* aligned(unsigned char* memory) { return hopper::aligned(memory); }
__device__ __forceinline__ void copies_are_seen() { hopper::writes_are_seen(); }

// scores [16, KEYS] += query [16, HEAD_DIM] keys [KEYS, HEAD_DIM]^T.
__device__ __forceinline__ void score(float (&scores)[SCORES][4], const unsigned (&query)[SLICES][4],
                                      const unsigned char* keys, int) {
    const unsigned at = hopper::shared_address(keys);
    hopper::begin_products();
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
        hopper::multiply_add<BF16, KEYS, false>(*reinterpret_cast<float(*)[KEYS / 2]>(&scores), query[slice],
                                                hopper::describe(at + slice / 4 * PANEL_BYTES, slice % 4 * 16));
    hopper::end_products();
    hopper::await_products();
}

// output [16, HEAD_DIM] += weights [16, KEYS] values [KEYS, HEAD_DIM].
__device__ __forceinline__ void gather(float (&output)[COLUMNS][4], const float (&weights)[SCORES][4],
                                       const unsigned char* values, int) {
    const unsigned at = hopper::shared_address(values);
    unsigned a[SCORES / 2][4];
#pragma unroll
    for (int column = 0; column < SCORES; column++)
#pragma unroll
        for (int lower = 0; lower < 2; lower++)
            a[column / 2][column % 2 * 2 + lower] = pack<BF16>(weights[column][lower * 2], weights[column][lower * 2 + 1]);
    hopper::begin_products();
#pragma unroll
    for (int slice = 0; slice < SCORES / 2; slice++)
        hopper::multiply_add<BF16, HEAD_DIM, true>(*reinterpret_cast<float(*)[HEAD_DIM / 2]>(&output), a[slice],
                                                   hopper::describe_transposed(at + slice * 16 * 128, PANEL_BYTES));
    hopper::end_products();
    hopper::await_products();
}

#else

__device__ __forceinline__ unsigned char* aligned(unsigned char* memory) { return memory; }
__device__ __forceinline__ void copies_are_seen() {}

// scores [16, KEYS] += query [16, HEAD_DIM] keys [KEYS, HEAD_DIM]^T.
__device__ __forceinline__ void score(float (&scores)[SCORES][4], const unsigned (&query)[SLICES][4],
                                      const unsigned char* keys, int lane) {
    // A lane says where a row of one of four matrices lies: eight keys, then eight more, of two pieces.
    const int key = lane % 8 + lane / 16 * 8, half = lane / 8 % 2;
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
        for (int column = 0; column < SCORES; column += 2) {
            unsigned b[4];
            ptx::load_matrices(b, keys + place(column * 8 + key, slice * 2 + half));
            ptx::multiply_add<BF16>(scores[column], query[slice], {b[0], b[1]});
            ptx::multiply_add<BF16>(scores[column + 1], query[slice], {b[2], b[3]});
        }
}

// output [16, HEAD_DIM] += weights [16, KEYS] values [KEYS, HEAD_DIM].
__device__ __forceinline__ void gather(float (&output)[COLUMNS][4], const float (&weights)[SCORES][4],
                                       const unsigned char* values, int lane) {
    const int key = lane % 16, half = lane / 16;
#pragma unroll
    for (int slice = 0; slice < SCORES / 2; slice++) {
        const float *left = weights[slice * 2], *right = weights[slice * 2 + 1];
        const unsigned a[4] = {pack<BF16>(left[0], left[1]), pack<BF16>(left[2], left[3]), pack<BF16>(right[0], right[1]),
                               pack<BF16>(right[2], right[3])};
#pragma unroll
        for (int column = 0; column < COLUMNS; column += 2) {
            unsigned b[4];
            ptx::load_transposed(b, values + place(slice * 16 + key, column + half));
            ptx::multiply_add<BF16>(output[column], a, {b[0], b[1]});
            ptx::multiply_add<BF16>(output[column + 1], a, {b[2], b[3]});
        }
    }
}

#endif

}  // namespace
