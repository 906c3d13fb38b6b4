// What NVIDIA's headers of vector and 16-bit types expect of the compiler's own header, which their package lacks.
#pragma once
#define __host__
#define __device__
#define __global__
#define __constant__
#define __shared__
#define __forceinline__ inline
#define __inline__ inline
#define __no_return__ __attribute__((noreturn))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __CUDACC_VER_MAJOR__ 13
#define CUDARTAPI
#define CUDARTAPI_CDECL
