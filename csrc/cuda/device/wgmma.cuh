// Tensor cores a warpgroup, four warps in a row, at a time: wgmma of sm_90a. Both sides lie in shared memory, and the
// products come on their own time: the warps order them, go on, and wait.
//
// A side is rows of 64 bytes, 32 elements along k, from a multiple of 512 bytes on; chunk c of 16 bytes of row r lies
// at r, c ^ r / 2 % 4 (the "64-byte swizzle").
// Warp w of the group, lane 4 g + t:
//   acc[4 j + 0, 1] C[16 w + g][8 j + 2 t, + 1]      acc[4 j + 2, 3] C[16 w + g + 8][8 j + 2 t, + 1]
#pragma once

#include <type_traits>

#include "convert.cuh"
#include "platform.cuh"

#ifndef PACT_EMULATED
namespace pact::device {

// Of code that others than sm_90a never run: leaves nothing of what follows.
__device__ __forceinline__ void wgmma_only() {
#ifndef __CUDA_ARCH_FEAT_SM90_ALL
  __trap();
  __builtin_unreachable();
#endif
}

// What this thread wrote to shared memory, its landed async copies, too: seen by tensor cores after the next barrier.
__device__ __forceinline__ void wgmma_publish() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product into accumulators that the thread has touched.
__device__ __forceinline__ void wgmma_begin() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Closes the warpgroup's current group of products.
__device__ __forceinline__ void wgmma_commit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most one of the latest groups is under way.
__device__ __forceinline__ void wgmma_wait_but_one() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#endif
}

// Until none is; then the accumulators are the thread's again.
__device__ __forceinline__ void wgmma_wait(float (&acc)[64]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(acc[i])::"memory");
#endif
}

// Where 16 elements of a side begin, and how its rows lie: 8 of them in 512 bytes.
__device__ __forceinline__ uint64_t wgmma_side(const void* rows) {
  constexpr uint64_t kLeading = 1ull << 16, kEightRows = (512ull >> 4) << 32, kSwizzle64 = 2ull << 62;
  const uint64_t address = __cvta_generic_to_shared(rows);
  return (address & 0x3ffff) >> 4 | kLeading | kEightRows | kSwizzle64;
}

#define PACT_WGMMA(type)                                                                                         \
  asm volatile(                                                                                                  \
      "{\n"                                                                                                      \
      ".reg .pred adds;\n"                                                                                       \
      "setp.ne.b32 adds, %66, 0;\n"                                                                              \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                               \
      " "                                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                        \
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                        \
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                       \
      "%64, %65, adds, 1, 1, 0, 0;\n"                                                                            \
      "}\n"                                                                                                      \
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3]), "+f"(acc[4]), "+f"(acc[5]), "+f"(acc[6]),        \
        "+f"(acc[7]), "+f"(acc[8]), "+f"(acc[9]), "+f"(acc[10]), "+f"(acc[11]), "+f"(acc[12]), "+f"(acc[13]),    \
        "+f"(acc[14]), "+f"(acc[15]), "+f"(acc[16]), "+f"(acc[17]), "+f"(acc[18]), "+f"(acc[19]), "+f"(acc[20]), \
        "+f"(acc[21]), "+f"(acc[22]), "+f"(acc[23]), "+f"(acc[24]), "+f"(acc[25]), "+f"(acc[26]), "+f"(acc[27]), \
        "+f"(acc[28]), "+f"(acc[29]), "+f"(acc[30]), "+f"(acc[31]), "+f"(acc[32]), "+f"(acc[33]), "+f"(acc[34]), \
        "+f"(acc[35]), "+f"(acc[36]), "+f"(acc[37]), "+f"(acc[38]), "+f"(acc[39]), "+f"(acc[40]), "+f"(acc[41]), \
        "+f"(acc[42]), "+f"(acc[43]), "+f"(acc[44]), "+f"(acc[45]), "+f"(acc[46]), "+f"(acc[47]), "+f"(acc[48]), \
        "+f"(acc[49]), "+f"(acc[50]), "+f"(acc[51]), "+f"(acc[52]), "+f"(acc[53]), "+f"(acc[54]), "+f"(acc[55]), \
        "+f"(acc[56]), "+f"(acc[57]), "+f"(acc[58]), "+f"(acc[59]), "+f"(acc[60]), "+f"(acc[61]), "+f"(acc[62]), \
        "+f"(acc[63])                                                                                            \
      : "l"(left), "l"(right), "r"(adds)                                                                         \
      : "memory")

// acc[64 x 128] += a[64 x 16] * b[128 x 16]^T of elements 16 k on of the sides' rows, or without what was there: T is
// float16 or bfloat16.
template <typename T>
__device__ __forceinline__ void wgmma_m64n128k16(float (&acc)[64], Shared<Vector<T>> a, Shared<Vector<T>> b, int k,
                                                 bool accumulate) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const uint64_t left = wgmma_side(a + 2 * k), right = wgmma_side(b + 2 * k);
  const int adds = accumulate;
  if constexpr (std::is_same_v<T, float16>)
    PACT_WGMMA("f16");
  else
    PACT_WGMMA("bf16");
#endif
}
#undef PACT_WGMMA

}  // namespace pact::device
#endif
