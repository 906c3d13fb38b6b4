// What ptx.cuh has, on a CPU: each function from the description of its instruction in NVIDIA's PTX manual.
#pragma once
#include <deque>
#include <map>

#include "cpu_reads.h"

#define DYNAMIC_SHARED(name) unsigned char* name = cpu::dynamic_shared

namespace ptx {

inline uint4 load_once(const void* from) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16) {
        std::fprintf(stderr, "a load of 16 bytes from %p, not aligned\n", from);
        std::abort();
    }
    cpu::note_read(from);
    uint4 x;
    std::memcpy(&x, from, 16);
    return x;
}

inline float larger(float a, float b) { return a != a || b != b ? NAN : max(a, b); }

inline void prefetch(const void* at) { static_cast<void>(*static_cast<const volatile char*>(at)); }

// Lane 4 r + c / 2 holds the elements (r, c) and (r, c + 1), c even.
inline unsigned short element(unsigned (*all)[8], int reg, int row, int column) {
    unsigned short pair[2];
    std::memcpy(pair, &all[row * 4 + column / 2][reg], 4);
    return pair[column % 2];
}

inline unsigned transpose(unsigned matrix) {
    auto all = cpu::tell(&matrix, 1);
    const int lane = cpu::current % 32;
    unsigned short pair[2];
    for (int i = 0; i < 2; i++) pair[i] = element(all, 0, lane % 4 * 2 + i, lane / 4);
    unsigned result;
    std::memcpy(&result, pair, 4);
    cpu::wait(cpu::Waits::warp);
    return result;
}

template <bool bf16> float number(unsigned short bits) {
    if constexpr (bf16) {
        __nv_bfloat16 x;
        std::memcpy(&x, &bits, 2);
        return __bfloat162float(x);
    } else {
        __half x;
        std::memcpy(&x, &bits, 2);
        return __half2float(x);
    }
}

template <bool bf16> void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const unsigned both[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto all = cpu::tell(both, 6);
    const int lane = cpu::current % 32;
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float total = 0;
        for (int k = 0; k < 16; k++)
            // b's columns lie as rows do: (k, column) is in the lane of row `column`, column k.
            total += number<bf16>(element(all, row / 8 + k / 8 * 2, row % 8, k % 8)) *
                     number<bf16>(element(all, 4 + k / 8, column, k % 8));
        sum[i] += total;
    }
    cpu::wait(cpu::Waits::warp);
}

// A thread's copies to shared memory, in groups: none is made before it is awaited.
struct Copy {
    void* to;
    const void* from;
    bool real;

    void make() const {
        if (real) std::memcpy(to, from, 16);
        else std::memset(to, 0, 16);
    }
};
inline std::map<int, std::deque<std::vector<Copy>>> copies;  // by thread; the last group is not ended

inline void copy_async(void* to, const void* from, bool real) {
    for (auto at : {reinterpret_cast<std::uintptr_t>(to), reinterpret_cast<std::uintptr_t>(from)})
        if (at % 16) {
            std::fprintf(stderr, "a copy of 16 bytes, not aligned\n");
            std::abort();
        }
    auto& groups = copies[cpu::current];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({to, from, real});
}
inline void end_copies() { copies[cpu::current].emplace_back(); }
template <int GROUPS> void await_copies() {
    auto& groups = copies[cpu::current];
    for (; groups.size() > GROUPS + 1; groups.pop_front())
        for (const Copy& copy : groups.front()) copy.make();
}

template <bool transposed> void load(unsigned (&to)[4], const void* row) {
    unsigned address[2];
    std::memcpy(address, &row, 8);
    auto all = cpu::tell(address, 2);
    const int lane = cpu::current % 32;
    for (int matrix = 0; matrix < 4; matrix++)
        for (int i = 0; i < 2; i++) {
            const int r = transposed ? lane % 4 * 2 + i : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + i;
            const unsigned short* from;
            std::memcpy(&from, all[matrix * 8 + r], 8);
            std::memcpy(reinterpret_cast<unsigned short*>(&to[matrix]) + i, from + column, 2);
        }
    cpu::wait(cpu::Waits::warp);
}
inline void load_matrices(unsigned (&to)[4], const void* row) { load<false>(to, row); }
inline void load_transposed(unsigned (&to)[4], const void* row) { load<true>(to, row); }

inline float exp2(float x) { return std::exp2(x); }
inline unsigned count(unsigned* at, unsigned most) { return atomicInc(at, most); }
inline void wait_for_earlier() {}
inline void let_later_start() {}

}  // namespace ptx
