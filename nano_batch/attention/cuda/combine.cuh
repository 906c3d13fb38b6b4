// Putting softmax-weighted sums of values over parts of a context together: a block's warps in shared memory, and
// workers' parts in global memory, by the last of them to arrive. Each sum comes with the largest score that it was
// scaled by (in powers of two) and the total of its weights, as in Milakov and Gimelshein, "Online normalizer
// calculation for softmax" (2018).
#pragma once

// All warps of the block meet here, but for one that only copies.
__device__ __forceinline__ void meet_readers() {
#if HOPPER
    hopper::meet<WARPS * 32>();
#else
    __syncthreads();
#endif
}

constexpr float NOTHING = -3.0e38f;  // the largest score where no key was seen

// Four neighbouring dimensions of a query head's sum.
struct Sum {
    float4 value = {0, 0, 0, 0};
    float largest = NOTHING, total = 0;

    __device__ void add(const float4& other, float weight) {
        value.x += other.x * weight;
        value.y += other.y * weight;
        value.z += other.z * weight;
        value.w += other.w * weight;
    }
};

// The sum of COUNT parts: value(i), scaled by the largest score and with the total that scale(i) has.
template <int COUNT, class Scale, class Value>
__device__ __forceinline__ Sum sum_of(Scale scale, Value value) {
    Sum sum;
#pragma unroll
    for (int i = 0; i < COUNT; i++) sum.largest = fmaxf(sum.largest, scale(i).x);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const float weight = ptx::exp2(scale(i).x - sum.largest);
        sum.total += scale(i).y * weight;
        sum.add(value(i), weight);
    }
    return sum;
}

// One pair's sums of each warp of a block.
struct WarpSums {
    float value[WARPS][HEADS][HEAD_DIM + 4];  // the padding spreads heads over the banks
    float largest[WARPS][HEADS], total[WARPS][HEADS];

    __device__ Sum sum(int head, int dim) const {
        return sum_of<WARPS>([&](int warp) { return make_float2(largest[warp][head], total[warp][head]); },
                             [&](int warp) { return *reinterpret_cast<const float4*>(&value[warp][head][dim]); });
    }
};

// Parts of split pairs in global memory: two a worker, one of a pair that began before it (2 worker), one of a pair
// that goes on after it (2 worker + 1).
struct Parts {
    float* values;   // [2 workers, HEADS, HEAD_DIM]
    float2* scales;  // [2 workers, HEADS], (largest, total)

    __device__ Parts(float* memory, int workers)
        : values(memory), scales(reinterpret_cast<float2*>(memory + 2ll * workers * HEADS * HEAD_DIM)) {}

    __device__ void write(int part, int head, int dim, const Sum& sum) const {
        *reinterpret_cast<float4*>(values + (static_cast<long long>(part) * HEADS + head) * HEAD_DIM + dim) = sum.value;
        if (dim == 0) scales[part * HEADS + head] = make_float2(sum.largest, sum.total);
    }
};

// Calls use(head, dim) for the block's four elements each of `heads` heads.
template <class Use> __device__ __forceinline__ void each_element(int heads, Use use) {
    for (int element = threadIdx.x; element < heads * (HEAD_DIM / 4); element += WARPS * 32)
        use(element / (HEAD_DIM / 4), element % (HEAD_DIM / 4) * 4);
}

// A pair of which the workers from `first` to `last` each write a part. Its arrivals are counted where it begins: in a
// worker at most one such pair does.
struct SplitPair {
    int row, head, first, last;  // first: -1 where there is no such pair

    // Whether this part is the last to arrive. The count is then 0 again, for the next launch.
    __device__ bool arrive(unsigned* arrivals) const {
        const unsigned others = last - first;
        return first >= 0 && ptx::count(arrivals + first, others) == others;
    }
};

// The parts of a pair.
struct PartsOfPair {
    const Parts& all;
    int first, count;

    __device__ PartsOfPair(const Parts& all, const SplitPair& pair)
        : all(all), first(pair.first), count(pair.last - pair.first + 1) {}
    __device__ long long at(int i, int head) const {
        return static_cast<long long>(2 * (first + i) + (i == 0)) * HEADS + head;
    }
    __device__ float2 scale(int i, int head) const { return __ldcg(all.scales + at(i, head)); }
    __device__ float4 value(int i, int head, int dim) const {
        return __ldcg(reinterpret_cast<const float4*>(all.values + at(i, head) * HEAD_DIM + dim));
    }
};

constexpr int FEW_PARTS = 8;  // with 16 a merge takes longer

// The sum of up to FEW_PARTS parts: each thread asks for all that it needs at once.
__device__ __forceinline__ Sum sum_of_few(const PartsOfPair& parts, int head, int dim) {
    float2 scale[FEW_PARTS];
    float4 value[FEW_PARTS];
#pragma unroll
    for (int i = 0; i < FEW_PARTS; i++) {
        const bool real = i < parts.count;
        scale[i] = real ? parts.scale(i, head) : make_float2(NOTHING, 0);
        value[i] = real ? parts.value(i, head, dim) : make_float4(0, 0, 0, 0);
    }
    return sum_of<FEW_PARTS>([&](int i) { return scale[i]; }, [&](int i) { return value[i]; });
}

// Calls use(head, dim, sum) with the sum of all parts of a pair, of which `heads` heads are real. Of many parts first
// their weights, in `shared` memory [heads, 2 parts + 1], then their values: so no load waits for another's.
template <class Use>
__device__ __forceinline__ void merge(const PartsOfPair& parts, int heads, float* shared, Use use) {
    if (parts.count <= FEW_PARTS) {
        each_element(heads, [&](int head, int dim) { use(head, dim, sum_of_few(parts, head, dim)); });
        return;
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, count = parts.count, pitch = 2 * count + 1;
    for (int head = warp; head < heads; head += WARPS) {
        float *weights = shared + head * pitch, *totals = weights + count;  // a lane reads back what it wrote itself
        float largest = NOTHING, total = 0;
        for (int i = lane; i < count; i += 32) {
            const float2 scale = parts.scale(i, head);
            largest = fmaxf(largest, weights[i] = scale.x);
            totals[i] = scale.y;
        }
        for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
        for (int i = lane; i < count; i += 32) total += totals[i] * (weights[i] = ptx::exp2(weights[i] - largest));
        for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        if (lane == 0) weights[2 * count] = total;
    }
    meet_readers();
    each_element(heads, [&](int head, int dim) {
        const float* weights = shared + head * pitch;
        Sum sum;
        sum.total = weights[2 * count];
#pragma unroll 16
        for (int i = 0; i < count; i++) sum.add(parts.value(i, head, dim), weights[i]);
        use(head, dim, sum);
    });
    meet_readers();
}
