// How tokens, and their slots in the paged cache, lie in memory.
#pragma once

struct TokenStrides { long long token, head; };  // in elements, as all strides here
struct SlotStrides {
    long long block, offset, head;

    __device__ __forceinline__ long long place(long long of_block, long long at, int of_head) const {
        return of_block * block + at * offset + of_head * head;
    }
};
