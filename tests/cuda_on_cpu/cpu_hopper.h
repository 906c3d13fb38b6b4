// What `decode_hopper.cu` needs of hopper.cuh, on a CPU. What is copied arrives when somebody waits for it, not sooner.
#pragma once

struct alignas(64) TensorMap {
    unsigned long long words[16];  // of `device.py`: address; bytes between tokens, heads, blocks, and of a row; tokens of a tile
};

namespace hopper {

inline unsigned char* aligned(unsigned char* memory) {
    return memory + (1024 - reinterpret_cast<std::uintptr_t>(memory) % 1024) % 1024;
}

struct Barrier {
    unsigned arrivals, pending, bytes, phase;
    std::vector<std::function<void()>> copies;

    void init(unsigned count) {
        arrivals = pending = count;
        bytes = phase = 0;
        copies.clear();
    }
    void arrive() {
        pending--;
        end_if_complete();
    }
    void expect(unsigned more) {
        bytes += more;
        arrive();
    }
    void wait(unsigned parity) {
        for (long long turns = 0; phase == parity; turns++) {
            const auto made = std::move(copies);
            copies.clear();
            for (const auto& copy : made) copy();
            end_if_complete();
            if (phase != parity) return;
            if (turns > 100000) {
                std::fprintf(stderr, "threads of block %u wait for a barrier that nobody completes\n", blockIdx.x);
                std::abort();
            }
            cpu::wait(cpu::Waits::nothing);
        }
    }

  private:
    void end_if_complete() {
        if (pending || bytes) return;
        phase ^= 1;
        pending = arrivals;
    }
};
inline void barriers_are_ready() {}
inline void writes_are_seen() {}
inline bool elected() { return cpu::current % 32 == 0; }

template <int COUNT> void meet() {
    cpu::some = COUNT;
    cpu::wait(cpu::Waits::some);
}

inline void load_tile(void* to, const TensorMap& map, int token, int head, int block, Barrier& barrier) {
    if (reinterpret_cast<std::uintptr_t>(to) % 1024) {
        std::fprintf(stderr, "a tile at %p, not aligned\n", to);
        std::abort();
    }
    const auto* from = reinterpret_cast<const unsigned char*>(map.words[0] + token * map.words[1] + head * map.words[2] +
                                                              block * map.words[3]);
    const int apart = map.words[1], bytes = map.words[4], tokens = map.words[5];
    const bool there = block >= 0 && static_cast<std::uint64_t>(block) < map.words[6];  // else zeros come
    barrier.copies.push_back([=, &barrier] {
        for (int panel = 0; panel < bytes / 128; panel++)
            for (int row = 0; row < tokens; row++)
                for (int piece = 0; piece < 8; piece++) {
                    auto* const place = static_cast<unsigned char*>(to) + (panel * tokens + row) * 128 + (piece ^ row % 8) * 16;
                    if (there) std::memcpy(place, from + row * apart + panel * 128 + piece * 16, 16);
                    else std::memset(place, 0, 16);
                }
        barrier.bytes -= tokens * bytes;
    });
}

}  // namespace hopper
