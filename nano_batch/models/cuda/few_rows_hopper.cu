// A linear layer for up to TOKENS rows of x, at the speed at which the weight can be read, on Hopper.
//
// The weight's rows are the rows of the tensor cores' first matrix, x's rows the columns of the second. A block takes a
// tile of 64 rows of the weight, or SPLITS blocks of a cluster do, a part of k each. One thread has chunks of both
// copied to shared memory, STAGES on their way. The weight's first ones do not wait for the kernel before this one; and
// the kernel after it starts when this one has asked for its last, so that what it asks for comes after them, while
// this one's blocks end. A cluster's sums meet in shared memory, each block finishing its part of the rows.
//
// Macros: ELEMENT, half or bf16; TOKENS; STAGES; SPLITS; GATED: the weight holds first gate, then up, and the output is
// silu(gate) * up; a tile is then half of its rows from either.
#include "hopper.cuh"
#include "ptx.cuh"
#include "silu.cuh"

constexpr bool IS_BF16 = Same<ELEMENT, bf16>::value;
constexpr int ROWS = 64, OUT_ROWS = GATED ? ROWS / 2 : ROWS, PANEL = 64, PANELS = 2, CHUNK = PANELS * PANEL;
constexpr int MULTIPLIERS = 128, THREADS = MULTIPLIERS + 32;  // and a warp that copies
constexpr int PANEL_BYTES = ROWS * PANEL * 2, X_PANEL_BYTES = TOKENS * PANEL * 2;
constexpr int WEIGHT_BYTES = PANELS * PANEL_BYTES, STAGE_BYTES = WEIGHT_BYTES + PANELS * X_PANEL_BYTES;
constexpr int SUM_ROW = ROWS + 4;  // of the sums of a token, so that warps write them without conflicts
static_assert(TOKENS * SUM_ROW * 4 <= STAGES * STAGE_BYTES);
static_assert(OUT_ROWS % (4 * SPLITS) == 0);

namespace {

struct Pipeline {
    unsigned char* stages;
    hopper::Barrier* full;
    hopper::Barrier* empty;
    int first, count;  // chunks of k

    __device__ unsigned char* weight(int stage) const { return stages + stage * STAGE_BYTES; }
    __device__ unsigned char* x(int stage) const { return weight(stage) + WEIGHT_BYTES; }

    __device__ __forceinline__ void load_weight(const TensorMap& map, int tile, int chunk) const {
        const int stage = chunk % STAGES;
        full[stage].expect(STAGE_BYTES);
        hopper::load_panels<true>(weight(stage), map, tile * OUT_ROWS, (first + chunk) * PANELS, full[stage]);
    }
    __device__ __forceinline__ void load_x(const TensorMap& map, int chunk) const {
        hopper::load_panels<false>(x(chunk % STAGES), map, 0, (first + chunk) * PANELS, full[chunk % STAGES]);
    }
    __device__ __forceinline__ void copy(const TensorMap& weight_map, const TensorMap& x_map, int tile) const {
        const int at_once = min(STAGES, count);
        for (int chunk = 0; chunk < at_once; chunk++) load_weight(weight_map, tile, chunk);
        ptx::wait_for_earlier();
        for (int chunk = 0; chunk < at_once; chunk++) load_x(x_map, chunk);
        for (int chunk = STAGES; chunk < count; chunk++) {
            empty[chunk % STAGES].wait((chunk / STAGES - 1) & 1);
            load_weight(weight_map, tile, chunk);
            load_x(x_map, chunk);
        }
        ptx::let_later_start();
    }
    __device__ __forceinline__ void multiply(float (&sum)[TOKENS / 2]) const {
        for (int chunk = 0; chunk < count; chunk++) {
            const int stage = chunk % STAGES;
            full[stage].wait(chunk / STAGES & 1);
            const unsigned a = hopper::shared_address(weight(stage)), b = hopper::shared_address(x(stage));
            hopper::begin_products();
#pragma unroll
            for (int column = 0; column < CHUNK; column += 16)
                hopper::multiply_add<IS_BF16, TOKENS>(sum, hopper::describe(a + column / PANEL * PANEL_BYTES, column % PANEL),
                                                      hopper::describe(b + column / PANEL * X_PANEL_BYTES, column % PANEL));
            hopper::await_products();
            if (threadIdx.x == 0) empty[stage].arrive();
        }
    }
};

// The sums of all blocks of the cluster, in their order.
__device__ __forceinline__ void total(float (&sum)[4], const float* at) {
    float4 part = *reinterpret_cast<const float4*>(at);
#pragma unroll
    for (int block = 0; block < SPLITS; block++) {
        if constexpr (SPLITS > 1) part = hopper::read_of_block(at, block);
        const float numbers[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j] += numbers[j];
    }
}

__device__ __forceinline__ void meet() {
    if constexpr (SPLITS == 1) __syncthreads();
    else hopper::meet_cluster();
}

}  // namespace

// weight [n, k] in tiles of 64 rows and 2 panels, x [rows, k] of TOKENS rows and 2 panels -> output [rows, n], or n / 2
// where GATED; a multiple of 4. Blocks: the output's tiles in x, SPLITS in y.
extern "C" __global__ void __cluster_dims__(1, SPLITS, 1) __launch_bounds__(THREADS)
    few_rows_hopper(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap x_map,
                    ELEMENT* output, int rows, int out_n, int k) {
    extern __shared__ unsigned char unaligned[];
    __shared__ hopper::Barrier full[STAGES], empty[STAGES];
    const unsigned begin = hopper::shared_address(unaligned);
    unsigned char* stages = unaligned + ((begin + 1023) / 1024 * 1024 - begin);
    const int chunks = (k + CHUNK - 1) / CHUNK, split = blockIdx.y, first_chunk = chunks * split / SPLITS;
    const Pipeline pipeline{stages, full, empty, first_chunk, chunks * (split + 1) / SPLITS - first_chunk};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) full[i].init(1), empty[i].init(1);
        hopper::barriers_are_ready();
    }
    __syncthreads();
    float sum[TOKENS / 2] = {};
    if (threadIdx.x < MULTIPLIERS) pipeline.multiply(sum);
    else if (threadIdx.x == MULTIPLIERS) pipeline.copy(weight_map, x_map, blockIdx.x);
    __syncwarp();
    __syncthreads();  // the stages are read, and hold the sums from here on

    float* sums = reinterpret_cast<float*>(stages);  // [TOKENS, SUM_ROW]
    if (threadIdx.x < MULTIPLIERS) {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++)
            sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * SUM_ROW + row + i / 2 % 2 * 8] = sum[i];
    }
    meet();
    constexpr int OWN_ROWS = OUT_ROWS / SPLITS, QUADS = OWN_ROWS / 4;
    for (int i = threadIdx.x; i < rows * QUADS; i += THREADS) {
        const int token = i / QUADS, row = split * OWN_ROWS + i % QUADS * 4, column = blockIdx.x * OUT_ROWS + row;
        if (column >= out_n) continue;
        float numbers[4] = {}, ups[4] = {};
        total(numbers, sums + token * SUM_ROW + row);
        if constexpr (GATED) total(ups, sums + token * SUM_ROW + row + OUT_ROWS);
        Vector<ELEMENT, 4> made;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            made.at[j] = from_float<ELEMENT>(numbers[j]);
            if constexpr (GATED) made.at[j] = gated(to_float(made.at[j]), to_float(from_float<ELEMENT>(ups[j])));
        }
        made.store(output + static_cast<long long>(token) * out_n + column);
    }
    if constexpr (SPLITS > 1) hopper::meet_cluster();  // nobody ends while another reads its sums
}
