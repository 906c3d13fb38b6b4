// A block's tile on Hopper: TOKENS rows of x times COLUMNS rows of a weight, of which chunks of k come through a ring of
// stages. A product takes 64 rows of its first factor, and the second, as wide as it is. With x's rows first one to three
// warpgroups have 64 each, or two 128. With the weight's one or two have 64 each, which may overlap, and where GATED 64 of
// either half; then no more of x's rows are multiplied than TOKENS.
//
// Macros: ELEMENT, half or bf16; WEIGHT_FIRST; TOKENS: 64, 128, 192 or 256, or any multiple of 8; COLUMNS; PANELS of a
// chunk; STAGES; GATED: the weight holds first gate, then up, and the output is silu(gate) * up; a tile is then half of its
// columns from either.
#pragma once
#include "hopper.cuh"
#include "ptx.cuh"
#include "silu.cuh"

constexpr bool IS_BF16 = Same<ELEMENT, bf16>::value;
constexpr int OUT_COLUMNS = GATED ? COLUMNS / 2 : COLUMNS, PANEL = 64, CHUNK = PANELS * PANEL, ROW_BYTES = PANEL * 2;
// Warpgroups, tiles of 64 rows of the first factor that each has, and how far apart either's rows are.
constexpr int GROUPS = WEIGHT_FIRST ? 1 + (OUT_COLUMNS > 64) : TOKENS < 256 ? TOKENS / 64 : 2;
constexpr int TILES = WEIGHT_FIRST ? 1 + GATED : TOKENS / (64 * GROUPS);
constexpr int GROUP_ROWS = WEIGHT_FIRST ? OUT_COLUMNS - 64 : TILES * 64, TILE_ROWS = WEIGHT_FIRST ? OUT_COLUMNS : 64;
constexpr int SECOND = WEIGHT_FIRST ? TOKENS : COLUMNS;  // rows of the second factor
constexpr int WIDTH = GROUPS == 3 && SECOND > 128 ? SECOND / 2 : SECOND;  // of a product: three groups have few registers
constexpr int MULTIPLIERS = GROUPS * 128;
constexpr int WEIGHT_PANEL = COLUMNS * ROW_BYTES, WEIGHT_BYTES = PANELS * WEIGHT_PANEL;
constexpr int STAGE_BYTES = WEIGHT_BYTES + PANELS * TOKENS * ROW_BYTES;
// Chunks whose products run on when the next are begun. Those of many rows take so long that none need to: a stage is free
// the sooner.
constexpr int RUNNING = TOKENS > 128 ? 0 : 1;
static_assert(OUT_COLUMNS % 8 == 0);
static_assert(!WEIGHT_FIRST || (OUT_COLUMNS >= 64 && TOKENS % 8 == 0));

namespace {

using Sums = float[TILES][SECOND / 2];

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

// Adds a tile's products, of the first ACTIVE times 64 rows of the warpgroup's, which are the first factor's from `first` on.
template <int ACTIVE, int SHARERS = 1>
__device__ __forceinline__ void multiply(Sums& sum, Ring& ring, int count, int first, int x_panel) {
    const int a_panel = WEIGHT_FIRST ? WEIGHT_PANEL : x_panel, b_panel = WEIGHT_FIRST ? x_panel : WEIGHT_PANEL;
    int before = 0;
    for (int chunk = 0; chunk < count; chunk++, ring.next()) {
        ring.full[ring.stage].wait(ring.round);
        const unsigned a = hopper::shared_address(WEIGHT_FIRST ? ring.weight() : ring.x()) + first * ROW_BYTES;
        const unsigned b = hopper::shared_address(WEIGHT_FIRST ? ring.x() : ring.weight());
        hopper::begin_products();
#pragma unroll
        for (int column = 0; column < CHUNK; column += 16)
#pragma unroll
            for (int tile = 0; tile < ACTIVE; tile++)
#pragma unroll
                for (int part = 0; part < SECOND; part += WIDTH)
                    hopper::multiply_add<IS_BF16, WIDTH>(
                        *reinterpret_cast<float(*)[WIDTH / 2]>(sum[tile] + part / 2),
                        hopper::describe(a + column / PANEL * a_panel + tile * TILE_ROWS * ROW_BYTES, column % PANEL),
                        hopper::describe(b + column / PANEL * b_panel + part * ROW_BYTES, column % PANEL));
        hopper::end_products();
        if (chunk >= RUNNING) {
            hopper::await_products<RUNNING>();
            ring.release<SHARERS>(RUNNING ? before : ring.stage);
        }
        before = ring.stage;
    }
    if constexpr (RUNNING) {
        hopper::await_products<0>();
        if (count > 0) ring.release<SHARERS>(before);
    }
}

constexpr int UP_APART = WEIGHT_FIRST ? SECOND / 2 : SECOND / 4;  // of a thread's sums of gate and of up

// Two neighbours in the sums, as they go into the output.
__device__ __forceinline__ Vector<ELEMENT, 2> made(const float* sum) {
    const auto pair = from_floats<ELEMENT>({sum[0], sum[1]});
    if constexpr (GATED) return gated(pair, from_floats<ELEMENT>({sum[UP_APART], sum[UP_APART + 1]}));
    else return pair;
}

// With x's rows first: stores a row of a warp's 16, of which this lane has two of each eight columns, APART from each other in
// `sum`, from a column on.
template <int APART>
__device__ __forceinline__ void store_row(const float* sum, ELEMENT* row, bool exists, int column, int columns) {
    const bool second = threadIdx.x % 2;
    const int quad = column + threadIdx.x % 4 / 2 * 4, last = column + OUT_COLUMNS - 8 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < OUT_COLUMNS / 8 - 1; j += 2) {
        const uint2 four = exchanged(made(sum + j * APART).words[0], made(sum + (j + 1) * APART).words[0], second);
        const int to = quad + (j + second) * 8;
        if (exists && to < columns) *reinterpret_cast<uint2*>(row + to) = four;
    }
    if constexpr (OUT_COLUMNS / 8 % 2)
        if (exists && last < columns) made(sum + (OUT_COLUMNS / 8 - 1) * APART).store(row + last);
}

// All 16 of them, of which this lane has `row` and that eight further down, `pitch` apart.
__device__ __forceinline__ void store(const float (&sum)[COLUMNS / 2], ELEMENT* output, int row, int rows, int column, int columns,
                                      int pitch) {
#pragma unroll
    for (int lower = 0; lower < 2; lower++, row += 8)
        store_row<4>(sum + lower * 2, output + static_cast<long long>(row) * pitch, row < rows, column, columns);
}

// With the weight's first: stores 16 columns of a warp from `column` on, of COUNT rows from `first` on.
template <int COUNT>
__device__ __forceinline__ void store_turned(const float* sum, ELEMENT* output, int first, int rows, int column, int columns,
                                             int pitch) {
    const bool second = threadIdx.x % 2;
    const int to = column + threadIdx.x % 4 / 2 * 4 + second * 8;
    first += threadIdx.x % 32 / 4;
#pragma unroll
    for (int row = 0; row < COUNT; row += 8) {
        const float* at = sum + row / 2;
        const uint2 four = exchanged(ptx::transpose(made(at).words[0]), ptx::transpose(made(at + 2).words[0]), second);
        if (row + first < rows && to < columns)
            *reinterpret_cast<uint2*>(output + static_cast<long long>(row + first) * pitch + to) = four;
    }
}

}  // namespace
