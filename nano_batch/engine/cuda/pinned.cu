// Between pinned memory of the host and a device's, by loads and stores of the device itself.
//
// Macros: VEC, elements of a vector, of 4 bytes each; THREADS of a block.
#include "elements.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) copy_pinned(const float* from, float* to, long long vectors) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= vectors) return;
    Vector<float, VEC> vector;
    vector.load(from + i * VEC);
    vector.store(to + i * VEC);
}
