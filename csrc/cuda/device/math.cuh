// Approximate functions in one instruction.
#pragma once

#include "platform.cuh"

#ifndef PACT_EMULATED
namespace pact::device {

// 2^x, off by 2 ulp at most; exactly 1 for zeros; 0 where it would be subnormal.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace pact::device
#endif
