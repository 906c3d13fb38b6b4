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

// What a block's threads have, put together by twos; in all of them.
template <class T, class Put> __device__ __forceinline__ T together(T mine, Put put) {
    __shared__ T of_warp[WARPS];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) mine = put(mine, __shfl_xor_sync(~0u, mine, mask));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = of_warp[threadIdx.x % WARPS];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) mine = put(mine, __shfl_xor_sync(~0u, mine, mask));
    return mine;
}

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
// logits [samples, vocab]; one block a row. First only how large the largest is: who has it then looks for where.
extern "C" __global__ void __launch_bounds__(THREADS)
    take_likeliest(const ELEMENT* logits, long long row_stride, int vocab, const int* sample_lanes, int lanes,
                   long long* newest, long long* tokens) {
    const ELEMENT* row = logits + blockIdx.x * row_stride;
    ptx::let_later_start();
    ptx::wait_for_earlier();
    Vector<ELEMENT, VEC> vector;
    float own = -LARGEST;
#pragma unroll 4
    for (int first = threadIdx.x * VEC; first < vocab; first += THREADS * VEC) {
        vector.load(row + first);
#pragma unroll
        for (int j = 0; j < VEC; j++) own = ptx::larger(own, to_float(vector.at[j]));
    }
    const float largest = together(own, ptx::larger);
    int id = NO_ID;
    if (own == largest)
        for (int first = threadIdx.x * VEC; first < vocab && id == NO_ID; first += THREADS * VEC) {
            vector.load(row + first);
#pragma unroll
            for (int j = VEC - 1; j >= 0; j--)
                if (to_float(vector.at[j]) == largest) id = first + j;
        }
    id = together(id, [](int a, int b) { return min(a, b); });
    if (threadIdx.x > 0) return;
    const long long token = fabsf(largest) <= LARGEST && id != NO_ID ? id : NO_TOKEN;  // -inf is nobody's
    tokens[blockIdx.x] = token;
    newest[place(sample_lanes[blockIdx.x], lanes)] = token;
}
