// Blocks of a cache copied to other blocks, as if every source were read before any destination is written.
//
// A thread block takes one slice of every pair's block, in one plane (a layer's keys or values): it reads the
// slices of all sources into shared memory, waits, and writes the destinations. No other thread block touches
// these bytes, so chains and rings of pairs come out right in one launch, whatever their order.
//
// Macro: UNIT, the bytes of one access, to which blocks, strides and slices are whole multiples.
#include "ptx.cuh"

template <int BYTES> struct Access;
template <> struct Access<1> { using type = unsigned char; };
template <> struct Access<2> { using type = unsigned short; };
template <> struct Access<4> { using type = unsigned int; };
template <> struct Access<8> { using type = uint2; };
template <> struct Access<16> { using type = uint4; };
using Unit = Access<UNIT>::type;

struct Planes { long long layer, kind, block; };  // strides, in units: of a layer, of keys or values, of a block

extern "C" __global__ void __launch_bounds__(256) copy_blocks(
    Unit* cache, Planes strides,
    const long long* pairs,  // [count, 2] (source, destination); one outside the cache copies nothing
    int count, long long num_blocks, int block_units, int slice_units) {
    DYNAMIC_SHARED(shared);
    Unit* staged = reinterpret_cast<Unit*>(shared);  // [count, slice_units]
    Unit* plane = cache + blockIdx.z * strides.layer + blockIdx.y * strides.kind;
    const int first = blockIdx.x * slice_units;
    const int width = min(slice_units, block_units - first);
    const int units = count * width;
#pragma unroll 4
    for (int i = threadIdx.x; i < units; i += blockDim.x) {
        const long long source = pairs[i / width * 2], target = pairs[i / width * 2 + 1];
        if (source < 0 || source >= num_blocks || target < 0 || target >= num_blocks) continue;
        staged[i] = plane[source * strides.block + first + i % width];
    }
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < units; i += blockDim.x) {
        const long long source = pairs[i / width * 2], target = pairs[i / width * 2 + 1];
        if (source < 0 || source >= num_blocks || target < 0 || target >= num_blocks) continue;
        plane[target * strides.block + first + i % width] = staged[i];
    }
}
