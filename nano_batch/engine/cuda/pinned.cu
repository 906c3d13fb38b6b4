// Between pinned memory of the host and a device's, by loads and stores of the device itself.
//
// Macros: VEC, elements of a vector, of 4 bytes each; THREADS of a block; PARTS that are copied at most.
#include "elements.cuh"

// What is copied of either side, in vectors, one part after another: how many there are up to a part's end, and how far a
// part lies behind the place that it would have if nothing lay between them.
struct Parts {
    long long until[PARTS], apart[PARTS];
};

extern "C" __global__ void __launch_bounds__(THREADS) copy_pinned(const float* from, float* to, const Parts parts) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= parts.until[PARTS - 1]) return;
    long long at = i + parts.apart[0];
#pragma unroll
    for (int part = 1; part < PARTS; part++)
        if (i >= parts.until[part - 1]) at = i + parts.apart[part];
    Vector<float, VEC> vector;
    vector.load(from + at * VEC);
    vector.store(to + at * VEC);
}
