// What only Hopper has: tiles copied from memory by an engine of their own, barriers that count their bytes, products
// of four warps that read both factors from shared memory, and thread blocks that see each other's.
#pragma once
#include "elements.cuh"

struct alignas(64) TensorMap {
    unsigned long long words[16];  // as the driver encodes it
};

namespace hopper {

__device__ __forceinline__ unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// A barrier in shared memory. A phase ends when all that were expected have arrived, and all bytes.
struct Barrier {
    unsigned long long state;

    __device__ __forceinline__ void init(unsigned arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(arrivals) : "memory");
    }
    __device__ __forceinline__ void expect(unsigned bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)), "r"(bytes)
                     : "memory");
    }
    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state)) : "memory");
    }
    // Until the phase of this parity has ended.
    __device__ __forceinline__ void wait(unsigned parity) {
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@!done bra again;\n"
            "}\n" ::"r"(shared_address(&state)), "r"(parity)
            : "memory");
    }
};
// Other threads, and the copy engine, see barriers as they were initialised.
__device__ __forceinline__ void barriers_are_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Panels of a matrix, of 64 of its columns each, from (row, panel) on, as many rows and panels as the map says
// (`tensor_map.py`). A row of a panel is 128 bytes, of which the eight pieces lie in the order piece ^ (row % 8); `to`
// is a multiple of 1024. Zeros past the ends. `once`: it need not stay in the second-level cache.
template <bool once>
__device__ __forceinline__ void load_panels(void* to, const TensorMap& map, int row, int panel, Barrier& barrier) {
    const unsigned long long policy = once ? 0x12F0000000000000 : 0x14F0000000000000;  // evict first, evict last
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
        "l"(&map), "r"(0), "r"(row), "r"(0), "r"(panel), "r"(shared_address(&barrier.state)), "l"(policy)
        : "memory");
}

// Describes a panel in shared memory, from one of its columns on, a multiple of 16, to `multiply_add`.
__device__ __forceinline__ unsigned long long describe(unsigned address, int column) {
    constexpr unsigned long long SWIZZLED = 1ull << 62, EIGHT_ROWS = 1024ull >> 4 << 32;
    return SWIZZLED | EIGHT_ROWS | 1ull << 16 | ((address + column * 2) & 0x3FFFF) >> 4;
}

// Products run while their threads go on; nobody may touch their sums before they are awaited.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void await_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

#define NANO_BATCH_PRODUCT(n, kind, sums, a, b)                                                        \
    "{\n.reg .pred adds;\nsetp.ne.b32 adds, 1, 0;\n"                                                   \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." kind "." kind " {" sums "}, " a ", " b ", adds, 1, 1, 0, 0;\n}\n"
#define NANO_BATCH_FOUR(sum, i) "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3])
#define NANO_BATCH_SIXTEEN(sum, i)                                                                     \
    NANO_BATCH_FOUR(sum, i), NANO_BATCH_FOUR(sum, i + 4), NANO_BATCH_FOUR(sum, i + 8), NANO_BATCH_FOUR(sum, i + 12)

// sum [64, COLUMNS] += a [64, 16] b [COLUMNS, 16]^T, by the 128 threads of four warps: sum[4 j] to sum[4 j + 3] of lane
// 4 r + c of warp w are the places (16 w + r, 8 j + 2 c), the next in its row, and both eight rows further down.
template <bool bf16, int COLUMNS>
__device__ __forceinline__ void multiply_add(float (&sum)[COLUMNS / 2], unsigned long long a, unsigned long long b) {
    static_assert(COLUMNS == 8 || COLUMNS == 16 || COLUMNS == 32 || COLUMNS == 64);
#define NANO_BATCH_CASE(n, sums, a_at, b_at, ...)                                                                     \
    if constexpr (bf16) asm volatile(NANO_BATCH_PRODUCT(n, "bf16", sums, a_at, b_at) : __VA_ARGS__ : "l"(a), "l"(b)); \
    else asm volatile(NANO_BATCH_PRODUCT(n, "f16", sums, a_at, b_at) : __VA_ARGS__ : "l"(a), "l"(b))
    if constexpr (COLUMNS == 8) {
        NANO_BATCH_CASE("8", "%0, %1, %2, %3", "%4", "%5", NANO_BATCH_FOUR(sum, 0));
    } else if constexpr (COLUMNS == 16) {
        NANO_BATCH_CASE("16", "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", NANO_BATCH_FOUR(sum, 0),
                        NANO_BATCH_FOUR(sum, 4));
    } else if constexpr (COLUMNS == 32) {
        NANO_BATCH_CASE("32", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16", "%17",
                        NANO_BATCH_SIXTEEN(sum, 0));
    } else {
        NANO_BATCH_CASE("64",
                        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                        "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                        "%32", "%33", NANO_BATCH_SIXTEEN(sum, 0), NANO_BATCH_SIXTEEN(sum, 16));
    }
#undef NANO_BATCH_CASE
}

// All threads of all blocks of the cluster meet here; what they wrote before is seen after.
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Four numbers at the same place in the shared memory of another block of the cluster.
__device__ __forceinline__ float4 read_of_block(const float* at, unsigned block) {
    unsigned there;
    float4 x;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(at)), "r"(block));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(there)
                 : "memory");
    return x;
}

}  // namespace hopper
