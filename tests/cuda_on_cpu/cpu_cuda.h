// CUDA C++ on a CPU: the threads of a block are fibers that take turns, and run on to the next point at which they
// wait for their warp or their block. One block runs after another. A kernel that forgets to wait reads what the other
// threads have not written yet: in one of two orders of threads, and of blocks, at least (`backwards`).
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
using std::max;
using std::min;
inline float __fmul_rn(float a, float b) { return a * b; }

namespace cpu {

enum class Waits { nothing, warp, block, some };

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Waits waits = Waits::nothing;
    bool done = false;
};

constexpr std::size_t STACK = 256 << 10;
inline std::vector<Thread> threads;
inline int current;
inline int some;  // the block's first threads, of which those meet that wait for some
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline unsigned said[64][32][8];  // what each lane of each warp tells the others
inline unsigned char* dynamic_shared;
inline bool backwards;

inline void wait(Waits what) {
    Thread& self = threads[current];
    self.waits = what;
    swapcontext(&self.context, &scheduler);
}

inline void body() {
    kernel();
    Thread& self = threads[current];
    self.done = true;
    swapcontext(&self.context, &scheduler);
}

// Tells the warp `count` numbers; returns what all its lanes told. Whoever reads it must `wait(Waits::warp)` after.
inline unsigned (*tell(const unsigned* numbers, int count))[8] {
    std::memcpy(said[current / 32][current % 32], numbers, count * sizeof(unsigned));
    wait(Waits::warp);
    return said[current / 32];
}

template <class T> T from_lane(T value, int lane) {
    static_assert(sizeof(T) == 4);
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    std::memcpy(&value, tell(&bits, 1)[lane & 31], 4);
    wait(Waits::warp);
    return value;
}

}  // namespace cpu

struct Reads {
    unsigned (*get)();
    operator unsigned() const { return get(); }
};
static const struct { Reads x; } threadIdx{{[] { return unsigned(cpu::current); }}};
static struct { unsigned x, y, z; } blockIdx, blockDim, gridDim;

static inline void __syncthreads() { cpu::wait(cpu::Waits::block); }
static inline void __syncwarp(unsigned = ~0u) { cpu::wait(cpu::Waits::warp); }
template <class T> static T __shfl_sync(unsigned, T value, int lane) { return cpu::from_lane(value, lane); }
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) {
    return cpu::from_lane(value, cpu::current % 32 ^ mask);
}
template <class T> static T __shfl_up_sync(unsigned, T value, int by) {
    const int lane = cpu::current % 32;
    return cpu::from_lane(value, lane >= by ? lane - by : lane);
}
static inline int __any_sync(unsigned, bool here) {
    unsigned bit = here;
    auto all = cpu::tell(&bit, 1);
    int any = 0;
    for (int lane = 0; lane < 32; lane++) any |= all[lane][0];
    cpu::wait(cpu::Waits::warp);
    return any;
}
static inline unsigned atomicInc(unsigned* at, unsigned most) {
    const unsigned old = *at;
    *at = old >= most ? 0 : old + 1;
    return old;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long both = static_cast<unsigned long long>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}
static inline float __fdividef(float x, float y) { return x / y; }
template <class T> static T __ldcg(const T* at) { return *at; }
template <class T> static T __ldg(const T* at) { return *at; }

namespace cpu {

inline void run_block(int count) {
    for (int i = 0; i < count; i++) {
        Thread& thread = threads[i];
        thread.waits = Waits::nothing;
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, body, 0);
    }
    for (int left = count; left > 0;) {
        bool moved = false;
        for (int turn = 0; turn < count; turn++) {
            current = backwards ? count - 1 - turn : turn;
            Thread& thread = threads[current];
            if (thread.done || thread.waits != Waits::nothing) continue;
            moved = true;
            swapcontext(&scheduler, &thread.context);
            left -= thread.done;
        }
        const auto release = [&](int begin, int end, Waits what) {
            bool any = false;
            for (int i = begin; i < end; i++) {
                if (threads[i].done) continue;
                if (threads[i].waits != what) return;
                any = true;
            }
            for (int i = begin; i < end; i++) threads[i].waits = Waits::nothing;
            moved |= any;
        };
        for (int begin = 0; begin < count; begin += 32) release(begin, std::min(count, begin + 32), Waits::warp);
        release(0, count, Waits::block);
        release(0, std::min(count, some), Waits::some);
        if (!moved && left > 0) {
            std::fprintf(stderr, "threads of block %u wait for each other\n", blockIdx.x);
            std::abort();
        }
    }
}

// Runs a grid of blocks [x, y, z]; `values` point to the kernel's arguments, as for cuLaunchKernel.
template <class... Argument, std::size_t... place>
void launch(void (*function)(Argument...), const unsigned* grid, unsigned block, std::size_t shared, void** values,
            std::index_sequence<place...>) {
    threads = std::vector<Thread>(block);
    for (auto& thread : threads) thread.stack.reset(new char[STACK]);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned turn = 0; turn < blocks; turn++) {
        const unsigned index = backwards ? blocks - 1 - turn : turn;
        blockIdx = {index % grid[0], index / grid[0] % grid[1], index / grid[0] / grid[1]};
        // A fresh piece of memory, 16-byte aligned and not larger, so that AddressSanitizer sees its end.
        std::unique_ptr<unsigned char, decltype(&std::free)> memory(
            static_cast<unsigned char*>(std::aligned_alloc(16, std::max<std::size_t>(16, (shared + 15) / 16 * 16))),
            &std::free);
        std::memset(memory.get(), 0xff, shared);  // NaN in every type
        dynamic_shared = memory.get();
        kernel = [&] { function(*static_cast<std::decay_t<Argument>*>(values[place])...); };
        run_block(block);
    }
}
template <class... Argument>
void launch(void (*function)(Argument...), const unsigned* grid, unsigned block, std::size_t shared, void** values) {
    launch(function, grid, block, shared, values, std::index_sequence_for<Argument...>{});
}

}  // namespace cpu
