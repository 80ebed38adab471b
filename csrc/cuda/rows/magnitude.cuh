// Magnitudes of elements and norms of rows: scales that bring them into range, their reciprocals.
#pragma once

#include "../device/convert.cuh"

namespace pact {

template <typename T>
__device__ __forceinline__ unsigned magnitude_bits(T x) {
  return __float_as_uint(device::to_float(x)) & 0x7fffffff;
}
constexpr unsigned kInfinityBits = 0x7f800000;

// 2^-e for a largest magnitude m * 2^e, m in [0.5, 1), kept within float's normal range; 1 for NaN or Inf.
__device__ __forceinline__ float power_of_two_scale(unsigned largest_bits) {
  if (largest_bits >= kInfinityBits) return 1.0f;
  const int exponent = 253 - static_cast<int>(largest_bits >> 23);
  return __uint_as_float(static_cast<unsigned>(max(exponent, 1)) << 23);
}

// 1 / sqrt(square), 0 for 0; NaN for NaN and for Inf, which only a row with NaN or Inf has.
__device__ __forceinline__ double inverse_norm(float square) {
  if (square == 0) return 0.0;
  if (__float_as_uint(square) >= kInfinityBits) return static_cast<double>(__uint_as_float(0x7fc00000));
  return 1.0 / sqrt(double(square));
}

}  // namespace pact
