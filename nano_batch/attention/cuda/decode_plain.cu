// The same work as decode.cu without tensor cores: for float32, for any head dimension and alignment, and to be read
// first: plain CUDA C++ in all that it meets. A warp's lanes share the dimensions of a token's key.
#define PLAIN_CUDA
#include "ptx.cuh"

#include "element.cuh"

#include "worker.cuh"

#if FP8
using Stored = fp8;
#else
using Stored = Element;
#endif

namespace {

constexpr int DIMS = (HEAD_DIM + 31) / 32;  // of a lane: lane, lane + 32, ...
constexpr int TOKENS = 4;                   // whose keys and values are under way together
constexpr float LOG2_E = 1.4426950408889634f;

// A cache [block, token, head, dim], strides in bytes.
struct Cache {
    const unsigned char* data;
    long long block, token, head;

    __device__ const Stored* at(long long block_id, int offset, int kv_head) const {
        return reinterpret_cast<const Stored*>(data + block_id * block + offset * token + kv_head * head);
    }
};

__device__ __forceinline__ void load(float (&to)[DIMS], const Stored* from, bool real, int lane) {
#pragma unroll
    for (int i = 0; i < DIMS; i++) to[i] = real && i * 32 + lane < HEAD_DIM ? to_float(from[i * 32 + lane]) : 0;
}

struct Reader {
    const Element* query;
    long long query_row, query_head;
    Cache keys, values;
    const TABLE_TYPE* table;
    long long table_stride;
    float scale, soft_cap;
    Scales key_scale;
    int warp, lane;

    float pair_query[HEADS][DIMS], output[HEADS][DIMS], largest[HEADS], total[HEADS];

    __device__ void start(const Share&) { clear(); }
    __device__ void settle() {}

    __device__ void clear() {
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            largest[head] = NOTHING, total[head] = 0;
#pragma unroll
            for (int i = 0; i < DIMS; i++) output[head][i] = 0;
        }
    }

    __device__ void begin_pair(const Cursor& at) {
        const Element* from = query + at.row * query_row + first_query_head(at.head) * query_head;
#pragma unroll
        for (int head = 0; head < HEADS; head++)
#pragma unroll
            for (int i = 0; i < DIMS; i++)
                pair_query[head][i] = head < query_heads(at.head) && i * 32 + lane < HEAD_DIM
                                          ? to_float(from[head * query_head + i * 32 + lane])
                                          : 0;
    }

    __device__ void read(Pairs<Reader>& pairs) {
        for (int number = warp;; number += WARPS) {
            while (number >= pairs.end)
                if (!pairs.finish()) return;
            const int start = (pairs.at.tile + number - pairs.begin) * TILE;
            const int begin = max(start, pairs.at.span.oldest), end = min(start + TILE, pairs.at.span.length);
            for (int token = begin; token < end; token += TOKENS) add(pairs.at, token, end);
        }
    }

    // Folds in up to TOKENS tokens.
    __device__ void add(const Cursor& at, int first, int end) {
        const float factor = scale * key_scale.at(at.head);
        const int head_of_cache = kv_head(at.head);
        float key[TOKENS][DIMS], value[TOKENS][DIMS];
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            const int token = min(first + i, end - 1);
            const long long block = table[at.row * table_stride + token / BLOCK_SIZE];
            load(key[i], keys.at(block, token % BLOCK_SIZE, head_of_cache), first + i < end, lane);
            load(value[i], values.at(block, token % BLOCK_SIZE, head_of_cache), first + i < end, lane);
        }
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            float score[TOKENS], larger = largest[head];
#pragma unroll
            for (int i = 0; i < TOKENS; i++) {
                float product = 0;
#pragma unroll
                for (int dim = 0; dim < DIMS; dim++) product += pair_query[head][dim] * key[i][dim];
#pragma unroll
                for (int step = 16; step > 0; step /= 2) product += __shfl_xor_sync(~0u, product, step);
                product *= factor;
                if (SOFT_CAP) product = soft_cap * tanhf(product / soft_cap);
                score[i] = first + i < end ? product * LOG2_E : NOTHING;
                larger = fmaxf(larger, score[i]);
            }
            const float keep = exp2f(largest[head] - larger);
            largest[head] = larger;
            total[head] *= keep;
#pragma unroll
            for (int dim = 0; dim < DIMS; dim++) output[head][dim] *= keep;
#pragma unroll
            for (int i = 0; i < TOKENS; i++) {
                const float weight = exp2f(score[i] - larger);
                total[head] += weight;
#pragma unroll
                for (int dim = 0; dim < DIMS; dim++) output[head][dim] += weight * value[i][dim];
            }
        }
    }

    // The present pair's sums; the next begins with none.
    __device__ void store(WarpSums& sums) {
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            if (lane == 0) sums.largest[warp][head] = largest[head], sums.total[warp][head] = total[head];
#pragma unroll
            for (int i = 0; i < DIMS; i++)
                if (i * 32 + lane < HEAD_DIM) sums.value[warp][head][i * 32 + lane] = output[head][i];
        }
        clear();
    }
};

}  // namespace

// Arguments as decode.cu's, but for the strides' type.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    decode(const Element* query, long long query_row, long long query_head, const unsigned char* keys,
           long long key_block, long long key_token, long long key_head, const unsigned char* values,
           long long value_block, long long value_token, long long value_head, const TABLE_TYPE* table,
           long long table_stride, int* plan_memory, float* parts_memory, Element* output, int rows, int kv_heads,
           float scale, float soft_cap, int window, const float* key_scale, int key_scale_stride,
           const float* value_scale, int value_scale_stride, float value_factor) {
    DYNAMIC_SHARED(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, heads = kv_heads * PARTS_OF_GROUP;
    const Plan plan(plan_memory, gridDim.x);
    Reader reader{query, query_row, query_head, {keys, key_block, key_token, key_head},
                  {values, value_block, value_token, value_head}, table, table_stride, scale, soft_cap,
                  {key_scale, key_scale_stride}, warp, lane};
    const Output to{output, kv_heads * GROUP, {value_scale, value_scale_stride}, value_factor};
    work(reader, plan, Parts(parts_memory, gridDim.x), to, reinterpret_cast<WarpSums*>(memory), rows, heads, window);
}
