// Where device code meets its compiler: nvcc, or a host compiler with the emulator of tests/emulator (PACT_EMULATED),
// whose header says how kernels are written to suit both. No torch and no host code here.
#pragma once

#ifdef PACT_EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace pact::device {

using float16 = __half;
using bfloat16 = __nv_bfloat16;

template <typename T>
using Shared = T*;

extern __shared__ __align__(512) unsigned char shared_memory[];  // as wgmma.cuh wants it

// `count` elements of the block's dynamic shared memory, from `byte_offset`.
template <typename T>
__device__ __forceinline__ Shared<T> shared(unsigned byte_offset, [[maybe_unused]] unsigned count) {
  return reinterpret_cast<T*>(shared_memory + byte_offset);
}

// Between two looks at what another thread will write.
__device__ __forceinline__ void spin_pause() { __nanosleep(32); }

// What other blocks may write, or read, at the same time: whole values of up to 8 bytes, loaded anew by each call. They
// order nothing else.
template <typename T>
__device__ __forceinline__ T load_relaxed(const T* pointer) {
  return *static_cast<const volatile T*>(pointer);
}
template <typename T>
__device__ __forceinline__ void store_relaxed(T* pointer, T value) {
  *static_cast<volatile T*>(pointer) = value;
}

}  // namespace pact::device
#endif
