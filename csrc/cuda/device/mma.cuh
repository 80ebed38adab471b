// Tensor cores one warp at a time: ldmatrix and mma.sync m16n8k16 with float32 accumulation (sm_80).
//
// Fragments, g = lane / 4, t = lane % 4, two 16-bit elements per register:
//   a[0] A[g][2t, 2t+1]     a[1] A[g+8][2t, 2t+1]     a[2] A[g][2t+8, 2t+9]     a[3] A[g+8][2t+8, 2t+9]
//   b0 B[2t, 2t+1][g]       b1 B[2t+8, 2t+9][g]
//   acc[0, 1] C[g][2t, 2t+1]                          acc[2, 3] C[g+8][2t, 2t+1]
#pragma once

#include "convert.cuh"
#include "platform.cuh"

#ifndef PACT_EMULATED
namespace pact::device {

// Four 8 x 8 matrices of 16-bit elements; lane l points at row l % 8 of matrix l / 8, and gets elements 2t, 2t+1 of row
// g of each.
template <typename T>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], Shared<T> row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// acc[16 x 8] += a[16 x 16] * b[16 x 8]; T is float16 or bfloat16.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_m16n8k16<float16>(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                                      uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<bfloat16>(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                                       uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace pact::device
#endif
