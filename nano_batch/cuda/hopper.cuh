// What only Hopper has: tiles copied from memory by an engine of their own, barriers that count their bytes, products
// of four warps that read both factors from shared memory, and thread blocks that see each other's.
//
// The tests run a kernel on a CPU: they bring their own version of what it needs (NANO_BATCH_ON_CPU).
#pragma once
#include "elements.cuh"
#ifdef NANO_BATCH_ON_CPU
#include "cpu_hopper.h"
#else

struct alignas(64) TensorMap {
    unsigned long long words[16];  // as the driver encodes it
};

namespace hopper {

__device__ __forceinline__ unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// The first place from here on that is a multiple of 1024 in shared memory: there panels begin.
__device__ __forceinline__ unsigned char* aligned(unsigned char* memory) {
    const unsigned begin = shared_address(memory);
    return memory + ((begin + 1023) / 1024 * 1024 - begin);
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
    // At the barrier in the same place of another block of the cluster; of what threads wrote nothing is passed on.
    __device__ __forceinline__ void arrive_of_block(unsigned block) {
        unsigned there;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(&state)), "r"(block));
        asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
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

constexpr unsigned long long READ_ONCE = 0x12F0000000000000, READ_AGAIN = 0x14F0000000000000;  // evict first, evict last

// Panels of a matrix, of 64 of its columns each, from (row, panel) on, as many rows and panels as the map says
// (`tensor_map.py`). A row of a panel is 128 bytes, of which the eight pieces lie in the order piece ^ (row % 8); `to`
// is a multiple of 1024. Zeros past the ends. `once`: it need not stay in the second-level cache.
template <bool once>
__device__ __forceinline__ void load_panels(void* to, const TensorMap& map, int row, int panel, Barrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
        "l"(&map), "r"(0), "r"(row), "r"(0), "r"(panel), "r"(shared_address(&barrier.state)),
        "l"(once ? READ_ONCE : READ_AGAIN)
        : "memory");
}
// The same for the blocks of the cluster whose bits are set, to the same place in each, and to the barrier of each.
__device__ __forceinline__ void load_panels_of_blocks(unsigned short blocks, void* to, const TensorMap& map, int row, int panel,
                                                      Barrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
        "[%0], [%1, {%2, %3, %4, %5}], [%6], %7, %8;" ::"r"(shared_address(to)),
        "l"(&map), "r"(0), "r"(row), "r"(0), "r"(panel), "r"(shared_address(&barrier.state)), "h"(blocks), "l"(READ_AGAIN)
        : "memory");
}

// The same of a tile of a cache's block, whose map (`tensor_map.py`) has a head's panels of its tokens.
__device__ __forceinline__ void load_tile(void* to, const TensorMap& map, int token, int head, int block, Barrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared_address(to)),
        "l"(&map), "r"(0), "r"(token), "r"(0), "r"(head), "r"(block), "r"(shared_address(&barrier.state)), "l"(READ_ONCE)
        : "memory");
}

constexpr unsigned long long SWIZZLED = 1ull << 62 | 1024ull >> 4 << 32;  // eight rows after eight

// Describes a panel in shared memory, from one of its columns on, a multiple of 16, to `multiply_add`.
__device__ __forceinline__ unsigned long long describe(unsigned address, int column) {
    return SWIZZLED | 1ull << 16 | ((address + column * 2) & 0x3FFFF) >> 4;
}
// Describes panels `apart` bytes from each other, from one of their rows on, a multiple of 8, to a transposed product.
__device__ __forceinline__ unsigned long long describe_transposed(unsigned address, unsigned apart) {
    return SWIZZLED | static_cast<unsigned long long>(apart >> 4) << 16 | (address & 0x3FFFF) >> 4;
}
// What this thread wrote to shared memory is seen by the products that come after.
__device__ __forceinline__ void writes_are_seen() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Products run while their threads go on; nobody may touch their sums before they are awaited.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most so many of the groups that were begun and ended still run.
template <int RUNNING = 0>
__device__ __forceinline__ void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(RUNNING) : "memory");
}

// Names of an instruction's registers, ten by ten, and the sums that they are.
#define NANO_BATCH_2(tens) "%" #tens "0, %" #tens "1"
#define NANO_BATCH_4(tens) NANO_BATCH_2(tens) ", %" #tens "2, %" #tens "3"
#define NANO_BATCH_6(tens) NANO_BATCH_4(tens) ", %" #tens "4, %" #tens "5"
#define NANO_BATCH_8(tens) NANO_BATCH_6(tens) ", %" #tens "6, %" #tens "7"
#define NANO_BATCH_LAST_10(tens) NANO_BATCH_8(tens) ", %" #tens "8, %" #tens "9"
#define NANO_BATCH_10(tens) NANO_BATCH_LAST_10(tens) ", "
#define NANO_BATCH_30 NANO_BATCH_10() NANO_BATCH_10(1) NANO_BATCH_10(2)
#define NANO_BATCH_60 NANO_BATCH_30 NANO_BATCH_10(3) NANO_BATCH_10(4) NANO_BATCH_10(5)
#define NANO_BATCH_80 NANO_BATCH_60 NANO_BATCH_10(6) NANO_BATCH_10(7)
#define NANO_BATCH_110 NANO_BATCH_80 NANO_BATCH_10(8) NANO_BATCH_10(9) NANO_BATCH_10(10)
#define NANO_BATCH_SUMS_4(i) "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3])
#define NANO_BATCH_SUMS_8(i) NANO_BATCH_SUMS_4(i), NANO_BATCH_SUMS_4(i + 4)
#define NANO_BATCH_SUMS_16(i) NANO_BATCH_SUMS_8(i), NANO_BATCH_SUMS_8(i + 8)
#define NANO_BATCH_SUMS_48(i) NANO_BATCH_SUMS_16(i), NANO_BATCH_SUMS_16(i + 16), NANO_BATCH_SUMS_16(i + 32)
#define NANO_BATCH_PRODUCT(n, kind, names, a, b, orders)                                                           \
    "{\n.reg .pred adds;\nsetp.ne.b32 adds, 1, 0;\n"                                                               \
    "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." kind "." kind " {" names "}, " a ", %" #b ", adds, 1, 1, " orders ";\n}\n"

// sum [64, WIDTH] += a [64, 16] b [WIDTH, 16]^T, by the 128 threads of four warps: sum[4 j] to sum[4 j + 3] of lane
// 4 r + c of warp w are the places (16 w + r, 8 j + 2 c), the next in its row, and both eight rows further down.
template <bool bf16, int WIDTH>
__device__ __forceinline__ void multiply_add(float (&sum)[WIDTH / 2], unsigned long long a, unsigned long long b) {
    static_assert(WIDTH % (WIDTH > 128 ? 8 : 16) == 0 && WIDTH >= 64 && WIDTH <= 240 && WIDTH != 192);
#define NANO_BATCH_CASE(n, names, a_at, b_at, ...)                                                                 \
    if constexpr (WIDTH == n && bf16)                                                                              \
        asm volatile(NANO_BATCH_PRODUCT(n, "bf16", names, "%" #a_at, b_at, "0, 0") : __VA_ARGS__ : "l"(a), "l"(b)); \
    if constexpr (WIDTH == n && !bf16)                                                                             \
        asm volatile(NANO_BATCH_PRODUCT(n, "f16", names, "%" #a_at, b_at, "0, 0") : __VA_ARGS__ : "l"(a), "l"(b));
    NANO_BATCH_CASE(64, NANO_BATCH_30 NANO_BATCH_2(3), 32, 33, NANO_BATCH_SUMS_16(0), NANO_BATCH_SUMS_16(16))
    NANO_BATCH_CASE(80, NANO_BATCH_30 NANO_BATCH_LAST_10(3), 40, 41, NANO_BATCH_SUMS_16(0), NANO_BATCH_SUMS_16(16),
                    NANO_BATCH_SUMS_8(32))
    NANO_BATCH_CASE(96, NANO_BATCH_30 NANO_BATCH_10(3) NANO_BATCH_8(4), 48, 49, NANO_BATCH_SUMS_48(0))
    NANO_BATCH_CASE(112, NANO_BATCH_30 NANO_BATCH_10(3) NANO_BATCH_10(4) NANO_BATCH_6(5), 56, 57, NANO_BATCH_SUMS_48(0),
                    NANO_BATCH_SUMS_8(48))
    NANO_BATCH_CASE(128, NANO_BATCH_60 NANO_BATCH_4(6), 64, 65, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48))
    NANO_BATCH_CASE(136, NANO_BATCH_60 NANO_BATCH_8(6), 68, 69, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_4(64))
    NANO_BATCH_CASE(144, NANO_BATCH_60 NANO_BATCH_10(6) NANO_BATCH_2(7), 72, 73, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_8(64))
    NANO_BATCH_CASE(152, NANO_BATCH_60 NANO_BATCH_10(6) NANO_BATCH_6(7), 76, 77, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_8(64), NANO_BATCH_SUMS_4(72))
    NANO_BATCH_CASE(160, NANO_BATCH_60 NANO_BATCH_10(6) NANO_BATCH_LAST_10(7), 80, 81, NANO_BATCH_SUMS_48(0),
                    NANO_BATCH_SUMS_16(48), NANO_BATCH_SUMS_16(64))
    NANO_BATCH_CASE(168, NANO_BATCH_80 NANO_BATCH_4(8), 84, 85, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_16(64), NANO_BATCH_SUMS_4(80))
    NANO_BATCH_CASE(176, NANO_BATCH_80 NANO_BATCH_8(8), 88, 89, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_16(64), NANO_BATCH_SUMS_8(80))
    NANO_BATCH_CASE(184, NANO_BATCH_80 NANO_BATCH_10(8) NANO_BATCH_2(9), 92, 93, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48),
                    NANO_BATCH_SUMS_16(64), NANO_BATCH_SUMS_8(80), NANO_BATCH_SUMS_4(88))
    NANO_BATCH_CASE(200, NANO_BATCH_80 NANO_BATCH_10(8) NANO_BATCH_LAST_10(9), 100, 101, NANO_BATCH_SUMS_48(0),
                    NANO_BATCH_SUMS_48(48), NANO_BATCH_SUMS_4(96))
    NANO_BATCH_CASE(208, NANO_BATCH_80 NANO_BATCH_10(8) NANO_BATCH_10(9) NANO_BATCH_4(10), 104, 105, NANO_BATCH_SUMS_48(0),
                    NANO_BATCH_SUMS_48(48), NANO_BATCH_SUMS_8(96))
    NANO_BATCH_CASE(216, NANO_BATCH_80 NANO_BATCH_10(8) NANO_BATCH_10(9) NANO_BATCH_8(10), 108, 109, NANO_BATCH_SUMS_48(0),
                    NANO_BATCH_SUMS_48(48), NANO_BATCH_SUMS_8(96), NANO_BATCH_SUMS_4(104))
    NANO_BATCH_CASE(224, NANO_BATCH_110 NANO_BATCH_2(11), 112, 113, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_48(48),
                    NANO_BATCH_SUMS_16(96))
    NANO_BATCH_CASE(232, NANO_BATCH_110 NANO_BATCH_6(11), 116, 117, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_48(48),
                    NANO_BATCH_SUMS_16(96), NANO_BATCH_SUMS_4(112))
    NANO_BATCH_CASE(240, NANO_BATCH_110 NANO_BATCH_LAST_10(11), 120, 121, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_48(48),
                    NANO_BATCH_SUMS_16(96), NANO_BATCH_SUMS_8(112))
#undef NANO_BATCH_CASE
}

// The same with a in registers, of the warp's 16 rows as `ptx::multiply_add` has them. TRANSPOSED: b is [16, WIDTH].
template <bool bf16, int WIDTH, bool TRANSPOSED>
__device__ __forceinline__ void multiply_add(float (&sum)[WIDTH / 2], const unsigned (&a)[4], unsigned long long b) {
    static_assert(WIDTH == 64 || WIDTH == 128);
#define NANO_BATCH_CASE(n, is_bf16, kind, transposed, names, a0, a1, a2, a3, b_at, ...)                             \
    if constexpr (WIDTH == n && bf16 == is_bf16 && TRANSPOSED == transposed)                                        \
        asm volatile(NANO_BATCH_PRODUCT(n, kind, names, "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}", b_at, #transposed) \
                     : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#define NANO_BATCH_CASES(n, ...)                                                                                    \
    NANO_BATCH_CASE(n, true, "bf16", 0, __VA_ARGS__) NANO_BATCH_CASE(n, true, "bf16", 1, __VA_ARGS__)               \
    NANO_BATCH_CASE(n, false, "f16", 0, __VA_ARGS__) NANO_BATCH_CASE(n, false, "f16", 1, __VA_ARGS__)
    NANO_BATCH_CASES(64, NANO_BATCH_30 NANO_BATCH_2(3), 32, 33, 34, 35, 36, NANO_BATCH_SUMS_16(0), NANO_BATCH_SUMS_16(16))
    NANO_BATCH_CASES(128, NANO_BATCH_60 NANO_BATCH_4(6), 64, 65, 66, 67, 68, NANO_BATCH_SUMS_48(0), NANO_BATCH_SUMS_16(48))
#undef NANO_BATCH_CASES
#undef NANO_BATCH_CASE
}

// All threads of four warps keep so many registers, or wait until they have them: at the start of a branch only.
template <int COUNT> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// All threads of all blocks of the cluster meet here; what they wrote before is seen after.
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same, but of what was written nothing is passed on, so that it costs no wait for that. Threads that have ended are not
// awaited.
__device__ __forceinline__ void await_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
// Which of the cluster's blocks this one is.
__device__ __forceinline__ unsigned block_in_cluster() {
    unsigned block;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(block));
    return block;
}
// So many threads of the block meet here, others by another number from 1 to 15.
template <int COUNT, int NUMBER = 1>
__device__ __forceinline__ void meet() {
    asm volatile("bar.sync %0, %1;" ::"n"(NUMBER), "n"(COUNT) : "memory");
}
// One thread of the warp. The compiler sees that it is one, and makes no loop over lanes around what it asks for.
__device__ __forceinline__ bool elected() {
    unsigned chosen;
    asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.b32 %0, 1, 0, one;\n}\n" : "=r"(chosen));
    return chosen;
}
// Eight bytes to the same place in the shared memory of another block of the cluster, whose barrier counts them.
__device__ __forceinline__ void send_to_block(unsigned block, uint2* to, uint2 x, Barrier& barrier) {
    asm volatile(
        "{\n"
        ".reg .b32 there, counter;\n"
        "mapa.shared::cluster.u32 there, %0, %2;\n"
        "mapa.shared::cluster.u32 counter, %1, %2;\n"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [there], {%3, %4}, [counter];\n"
        "}\n" ::"r"(shared_address(to)),
        "r"(shared_address(&barrier.state)), "r"(block), "r"(x.x), "r"(x.y)
        : "memory");
}

}  // namespace hopper
#endif
