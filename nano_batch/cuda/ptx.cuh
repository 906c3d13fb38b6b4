// The few instructions that CUDA C++ has no name for. The tests run the kernels on a CPU: they bring their own
// version of this file's functions (NANO_BATCH_ON_CPU). A kernel in plain CUDA C++ (PLAIN_CUDA) has those that shared
// code asks for, and is launched without overlap.
#pragma once
#ifdef NANO_BATCH_ON_CPU
#include "cpu_ptx.h"
#else

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

#ifdef PLAIN_CUDA

namespace ptx {

__device__ __forceinline__ float exp2(float x) { return exp2f(x); }
__device__ __forceinline__ unsigned count(unsigned* at, unsigned most) {
    __threadfence();
    const unsigned before = atomicInc(at, most);
    __threadfence();
    return before;
}

}  // namespace ptx
#else

namespace ptx {

// Sixteen bytes that are read once: no place is kept for them near the multiprocessor.
__device__ __forceinline__ uint4 load_once(const void* from) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
}

// Asks for the 128 bytes around an address in the second-level cache, which later writes still reach.
__device__ __forceinline__ void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Transposes an 8 x 8 matrix of 16-bit elements of which lane 4 r + c has row r, columns 2 c and 2 c + 1.
__device__ __forceinline__ unsigned transpose(unsigned matrix) {
    unsigned result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
    return result;
}

// sum [16, 8] += a [16, 16] b [16, 8].
template <bool bf16>
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (bf16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Copies sixteen bytes to shared memory, zeros if they are not `real`; they are there when they are awaited.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool real) {
    asm volatile(
        "{\n.reg .pred none;\nsetp.eq.s32 none, %2, 0;\ncp.async.cg.shared.global [%0], [%1], 16, none;\n}\n" ::"r"(
            static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(from), "r"(static_cast<int>(real))
        : "memory");
}
// What this thread copies up to here is one group.
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most so many of its groups are on their way.
template <int GROUPS> __device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane 8 i + r says where row r of matrix i lies, sixteen
// bytes, and lane 4 r + c gets (r, 2 c) and (r, 2 c + 1) of each, or of their transposes.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

__device__ __forceinline__ float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The larger of two numbers; NaN where either is.
__device__ __forceinline__ float larger(float a, float b) {
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
    return most;
}

// Adds one, or goes back to 0 from `most`, and returns what was there. On the whole device what this thread has written,
// or seen written, comes before it, and after it what the thread writes and reads next.
__device__ __forceinline__ unsigned count(unsigned* at, unsigned most) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(most) : "memory");
    return before;
}

// With programmatic dependent launch a kernel may start while the one before it ends: nothing that an earlier kernel
// wrote may be read before `wait_for_earlier`. Both do nothing in an ordinary launch.
__device__ __forceinline__ void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_later_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ptx
#endif
#endif
