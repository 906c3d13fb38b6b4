// A block's tile on Hopper: TOKENS rows of x times COLUMNS rows of a weight, of which chunks of k come through a ring of
// stages. One to three warpgroups multiply, 64 rows each, or two of 128.
//
// Macros: ELEMENT, half or bf16; TOKENS: 64, 128, 192 or 256; COLUMNS; PANELS of a chunk; STAGES; GATED: the weight holds
// first gate, then up, and the output is silu(gate) * up; a tile is then half of its columns from either.
#pragma once
#include "hopper.cuh"
#include "ptx.cuh"
#include "silu.cuh"

constexpr bool IS_BF16 = Same<ELEMENT, bf16>::value;
constexpr int OUT_COLUMNS = GATED ? COLUMNS / 2 : COLUMNS, PANEL = 64, CHUNK = PANELS * PANEL, ROW_BYTES = PANEL * 2;
constexpr int GROUPS = TOKENS < 256 ? TOKENS / 64 : 2, TILES = TOKENS / (64 * GROUPS);  // 64 rows of x, TILES of a group
constexpr int WIDTH = GROUPS == 3 && COLUMNS > 128 ? COLUMNS / 2 : COLUMNS;  // of a product: three groups have few registers
constexpr int MULTIPLIERS = GROUPS * 128;
constexpr int WEIGHT_PANEL = COLUMNS * ROW_BYTES, WEIGHT_BYTES = PANELS * WEIGHT_PANEL;
constexpr int STAGE_BYTES = WEIGHT_BYTES + PANELS * TOKENS * ROW_BYTES;
// Chunks whose products run on when the next are begun. Those of many rows take so long that none need to: a stage is free
// the sooner.
constexpr int RUNNING = TOKENS > 128 ? 0 : 1;
static_assert(OUT_COLUMNS % 8 == 0);

namespace {

struct Ring {
    unsigned char* stages;
    hopper::Barrier* full;
    hopper::Barrier* empty;
    int stage = 0, round = 0, filled = 0;

    __device__ __forceinline__ unsigned char* weight() const { return stages + stage * STAGE_BYTES; }
    __device__ __forceinline__ unsigned char* x() const { return weight() + WEIGHT_BYTES; }
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, round ^= 1;
    }
    __device__ __forceinline__ void wait_until_empty() {
        if (++filled > STAGES) empty[stage].wait(round ^ 1);
    }
    // A warpgroup is done with a stage: so all blocks of the cluster learn that copy into it.
    template <int SHARERS> __device__ __forceinline__ void release(int of) {
        const unsigned thread = threadIdx.x % 128;
        if constexpr (SHARERS == 1) {
            if (thread == 0) empty[of].arrive();
        } else {
            if (thread < SHARERS) empty[of].arrive_of_block(thread);
        }
    }
};

// Adds a tile's products, of the first ACTIVE times 64 rows of the warpgroup's.
template <int ACTIVE, int SHARERS = 1>
__device__ __forceinline__ void multiply(float (&sum)[TILES][COLUMNS / 2], Ring& ring, int count, int first, int x_panel) {
    int before = 0;
    for (int chunk = 0; chunk < count; chunk++, ring.next()) {
        ring.full[ring.stage].wait(ring.round);
        const unsigned a = hopper::shared_address(ring.x()) + first * ROW_BYTES;
        const unsigned b = hopper::shared_address(ring.weight());
        hopper::begin_products();
#pragma unroll
        for (int column = 0; column < CHUNK; column += 16)
#pragma unroll
            for (int tile = 0; tile < ACTIVE; tile++)
#pragma unroll
                for (int first_column = 0; first_column < COLUMNS; first_column += WIDTH)
                    hopper::multiply_add<IS_BF16, WIDTH>(
                        *reinterpret_cast<float(*)[WIDTH / 2]>(sum[tile] + first_column / 2),
                        hopper::describe(a + column / PANEL * x_panel + tile * 64 * ROW_BYTES, column % PANEL),
                        hopper::describe(b + column / PANEL * WEIGHT_PANEL + first_column * ROW_BYTES, column % PANEL));
        hopper::end_products();
        if (chunk >= RUNNING) {
            hopper::await_products<RUNNING>();
            ring.release<SHARERS>(RUNNING ? before : ring.stage);
        }
        before = ring.stage;
    }
    if constexpr (RUNNING) {
        hopper::await_products<0>();
        ring.release<SHARERS>(before);
    }
}

// Two neighbours of a row of the output, from the sums.
__device__ __forceinline__ Vector<ELEMENT, 2> made(const float* sum) {
    Vector<ELEMENT, 2> pair;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        pair.at[j] = from_float<ELEMENT>(sum[j]);
        if constexpr (GATED) pair.at[j] = gated(to_float(pair.at[j]), to_float(from_float<ELEMENT>(sum[j + COLUMNS / 4])));
    }
    return pair;
}

// Stores 16 rows of a warp, of which this lane has `row` and that eight further down, `pitch` apart, from a column on.
__device__ __forceinline__ void store(const float (&sum)[COLUMNS / 2], ELEMENT* output, int row, int rows, int column, int columns,
                                      int pitch) {
    const bool second = threadIdx.x % 2;
    const int quad = column + threadIdx.x % 4 / 2 * 4, last = column + OUT_COLUMNS - 8 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int lower = 0; lower < 2; lower++, row += 8) {
        ELEMENT* at = output + static_cast<long long>(row) * pitch;
#pragma unroll
        for (int j = 0; j < OUT_COLUMNS / 8 - 1; j += 2) {
            const unsigned here = made(sum + j * 4 + lower * 2).words[0], there = made(sum + j * 4 + 4 + lower * 2).words[0];
            const uint2 four = exchanged(here, there, second);
            const int to = quad + (j + second) * 8;
            if (row < rows && to < columns)
                *reinterpret_cast<uint2*>(at + to) = four;
        }
        if constexpr (OUT_COLUMNS / 8 % 2)
            if (row < rows && last < columns) made(sum + OUT_COLUMNS / 2 - 4 + lower * 2).store(at + last);
    }
}

}  // namespace
