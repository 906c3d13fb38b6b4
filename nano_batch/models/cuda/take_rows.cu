// Rows of two tables by their ids, as a step's first layer needs them. A thread moves a vector.
//
// Macros: ELEMENT, the type of both tables; VEC, elements of a vector; THREADS of a block.
#include "elements.cuh"
#include "ptx.cuh"

using Elements = Vector<ELEMENT, VEC>;

// ids [tokens]; one [table_rows, one_size], other [table_rows, other_size] -> one_rows, other_rows [tokens, their sizes],
// contiguous; NaN where there is no such row. blockIdx.x is the token, blockIdx.y a part of its two rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    take_rows(const long long* ids, int table_rows, const ELEMENT* one, long long one_stride, const ELEMENT* other,
              long long other_stride, ELEMENT* one_rows, ELEMENT* other_rows, int one_size, int other_size) {
    // Attention may begin when this lets it, and then reads a plan without a wait: that has to be there by now.
    ptx::wait_for_earlier();
    ptx::let_later_start();
    const long long token = blockIdx.x;
    const int at = (blockIdx.y * THREADS + threadIdx.x) * VEC, place = at < one_size ? at : at - one_size;
    if (at >= one_size + other_size) return;
    const long long id = ids[token];
    Elements piece;
    if (id >= 0 && id < table_rows) {
        piece.load((at < one_size ? one + id * one_stride : other + id * other_stride) + place);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) piece.at[i] = from_float<ELEMENT>(nanf(""));
    }
    piece.store((at < one_size ? one_rows + token * one_size : other_rows + token * other_size) + place);
}
