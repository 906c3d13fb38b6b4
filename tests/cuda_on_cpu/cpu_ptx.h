// What ptx.cuh has, on a CPU: each function from the description of its instruction in NVIDIA's PTX manual.
#pragma once

#define DYNAMIC_SHARED(name) unsigned char* name = cpu::dynamic_shared

namespace ptx {

// A copy happens when it is waited for: a kernel that does not wait finds what was there before.
inline void copy_async(void* to, const void* from, bool real) {
    if (reinterpret_cast<std::uintptr_t>(to) % 16 || (real && reinterpret_cast<std::uintptr_t>(from) % 16)) {
        std::fprintf(stderr, "a copy of 16 bytes from %p to %p, not aligned\n", from, to);
        std::abort();
    }
    cpu::threads[cpu::current].group.push_back([=] {
        if (real) std::memcpy(to, from, 16);
        else std::memset(to, 0, 16);
    });
}
inline void copy_async(void* to, const void* from) { copy_async(to, from, true); }
inline void commit() {
    auto& self = cpu::threads[cpu::current];
    self.copies.push_back(std::move(self.group));
    self.group.clear();
}
template <int pending> void wait() {
    auto& copies = cpu::threads[cpu::current].copies;
    while (copies.size() > pending) {
        for (auto& copy : copies.front()) copy();
        copies.erase(copies.begin());
    }
}

inline void load_matrices_of(unsigned (&to)[4], const void* row, bool transposed) {
    unsigned address[2];
    std::memcpy(address, &row, 8);
    auto all = cpu::tell(address, 2);
    const int lane = cpu::current % 32;
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned short pair[2];
        for (int i = 0; i < 2; i++) {
            const int at = lane % 4 * 2 + i, other = lane / 4;
            const unsigned short* source;
            std::memcpy(&source, all[matrix * 8 + (transposed ? at : other)], 8);
            pair[i] = source[transposed ? other : at];
        }
        std::memcpy(&to[matrix], pair, 4);
    }
    cpu::wait(cpu::Waits::warp);
}
inline void load_matrices(unsigned (&to)[4], const void* row) { load_matrices_of(to, row, false); }
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) { load_matrices_of(to, row, true); }

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

inline float exp2(float x) { return std::exp2(x); }
inline void wait_for_earlier() {}
inline void let_later_start() {}

}  // namespace ptx
