// CUDA kernels on the host, with CUDA's rules enforced. A kernel file includes csrc/cuda/device/platform.cuh and names
// shared memory through device::shared; everything else is CUDA as usual:
//
//   template <typename T> __global__ void reverse_kernel(const T* in, T* out, int n) {
//     device::Shared<T> tile = device::shared<T>(0, n);  // byte offset, elements, within the bytes of the launch
//     tile[threadIdx.x] = in[threadIdx.x];
//     __syncthreads();
//     const T value = tile[n - 1 - threadIdx.x];         // name the type: `auto` would hold a reference
//     out[threadIdx.x] = value;                          // atomics: atomicAdd(&counters[i], 1u), shared or global
//   }
//   emulator::launch(reverse_kernel<float>, grid, block, shared_bytes, seed, /*concurrent=*/false, in, out, n);
//
// Kernels whose blocks wait for each other are launched concurrent: while (!device::load_relaxed(flag))
// device::spin_pause(). What a launch throws starts with the name of the mistake: "divergent barrier", "divergent
// collective", "deadlock", "step limit", "shared memory race", "shared memory out of bounds", "unwritten shared
// memory", "async copy in flight", "misaligned", "global memory race". Collectives want every lane of their mask alive.
#pragma once

#include "engine.h"
#include "intrinsics.h"
#include "shared_memory.h"
#include "tensor.h"
#include "warpgroup.h"
