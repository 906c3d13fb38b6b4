// Each lane's newest token: a step's tokens from it, and the likeliest of a step's logits into it.
//
// Macros: ELEMENT, of the logits; VEC, elements of a vector; THREADS of a block.
#include "elements.cuh"
#include "ptx.cuh"

constexpr int WARPS = THREADS / 32, NO_TOKEN = -1, NO_ID = 0x7fffffff;
constexpr float LARGEST = 3.402823466e38f;

namespace {

// Where a lane's newest token lies; that of lane -1, of padding, after all others.
__device__ __forceinline__ int place(int lane, int lanes) { return lane < 0 ? lanes : lane; }

// The largest of some logits, and the smallest id that has it; no id where all are -inf. NaN is larger than all.
struct Best {
    float logit = -LARGEST;
    int id = NO_ID;

    __device__ __forceinline__ void take(float other, int other_id) {
        const bool nan = logit != logit, other_nan = other != other;
        const bool larger = other_nan ? !nan : other > logit, equal = other_nan ? nan : other == logit;
        if (larger || (equal && other_id < id)) logit = other, id = other_id;
    }
    __device__ __forceinline__ void take_neighbours() {
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) {
            const float other = __shfl_xor_sync(~0u, logit, mask);
            take(other, __shfl_xor_sync(~0u, id, mask));
        }
    }
};

}  // namespace

// tokens [count]: those given, or where one is -1 its lane's newest, 0 where that is -1, too; positions, widened.
// newest [lanes + 1].
extern "C" __global__ void __launch_bounds__(THREADS)
    begin_step(const int* given, const int* token_lanes, const int* positions, const long long* newest, int count, int lanes,
               long long* tokens, long long* wide_positions) {
    ptx::let_later_start();
    ptx::wait_for_earlier();
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const long long last = newest[place(token_lanes[i], lanes)];
    tokens[i] = given[i] >= 0 ? given[i] : last < 0 ? 0 : last;
    wide_positions[i] = positions[i];
}

// tokens [samples]: each row's likeliest, -1 where its largest logit is not finite; and its lane's newest from now on.
// logits [samples, vocab]; one block a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    take_likeliest(const ELEMENT* logits, long long row_stride, int vocab, const int* sample_lanes, int lanes,
                   long long* newest, long long* tokens) {
    __shared__ float logit_of_warp[WARPS];
    __shared__ int id_of_warp[WARPS];
    const ELEMENT* row = logits + blockIdx.x * row_stride;
    Best best;
    ptx::let_later_start();
    ptx::wait_for_earlier();
#pragma unroll 4
    for (int first = threadIdx.x * VEC; first < vocab; first += THREADS * VEC) {
        Vector<ELEMENT, VEC> vector;
        vector.load(row + first);
#pragma unroll
        for (int j = 0; j < VEC; j++) best.take(to_float(vector.at[j]), first + j);
    }
    best.take_neighbours();
    if (threadIdx.x % 32 == 0) logit_of_warp[threadIdx.x / 32] = best.logit, id_of_warp[threadIdx.x / 32] = best.id;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    best = Best();
    if (threadIdx.x < WARPS) best.take(logit_of_warp[threadIdx.x], id_of_warp[threadIdx.x]);
    best.take_neighbours();
    if (threadIdx.x > 0) return;
    const long long token = fabsf(best.logit) <= LARGEST && best.id != NO_ID ? best.id : NO_TOKEN;
    tokens[blockIdx.x] = token;
    newest[place(sample_lanes[blockIdx.x], lanes)] = token;
}
