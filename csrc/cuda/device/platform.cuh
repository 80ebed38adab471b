// Where device code meets its compiler: nvcc, or a host compiler with the emulator of tests/emulator (PACT_EMULATED),
// whose header says how kernels are written to suit both. No torch and no host code here.
#pragma once

#ifdef PACT_EMULATED
#include "emulator.h"
#else
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace pact::device {

using float16 = __half;
using bfloat16 = __nv_bfloat16;

template <typename T>
using Shared = T*;

extern __shared__ __align__(128) unsigned char shared_memory[];

// `count` elements of the block's dynamic shared memory, from `byte_offset`.
template <typename T>
__device__ __forceinline__ Shared<T> shared(unsigned byte_offset, [[maybe_unused]] unsigned count) {
  return reinterpret_cast<T*>(shared_memory + byte_offset);
}

// Between two looks at what another thread will write.
__device__ __forceinline__ void spin_pause() { __nanosleep(32); }

// Barrier of all threads of a cooperative launch.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

// What was written before a store_release is visible after the load_acquire that sees it.
__device__ __forceinline__ int load_acquire(const int* pointer) {
  int value;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(pointer) : "memory");
  return value;
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* pointer) {
  return load_acquire(reinterpret_cast<const int*>(pointer));
}
__device__ __forceinline__ void store_release(int* pointer, int value) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}
__device__ __forceinline__ void store_release(unsigned* pointer, unsigned value) {
  store_release(reinterpret_cast<int*>(pointer), static_cast<int>(value));
}

}  // namespace pact::device
#endif
