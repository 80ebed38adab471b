// The nearest of several tokens as one integer.
#pragma once

#include "../device/platform.cuh"

namespace pact {

// (distance bits << 32 | number): the minimum is that of the distance, then of the number, in any order. Distances are
// not negative, so their bits order as they do, with NaN above all.
using NearestKey = unsigned long long;
constexpr NearestKey kNoCenter = ~NearestKey{0};

__device__ __forceinline__ unsigned distance_bits(float distance) { return __float_as_uint(distance) & 0x7fffffff; }
__device__ __forceinline__ NearestKey nearest_key(unsigned bits, unsigned number) {
  return static_cast<NearestKey>(bits) << 32 | number;
}
// A key of half the distance, turned into one of the distance.
__device__ __forceinline__ NearestKey doubled(NearestKey key) {
  if (key == kNoCenter) return key;
  const float half = __uint_as_float(static_cast<unsigned>(key >> 32));
  return nearest_key(distance_bits(2 * half), static_cast<unsigned>(key));
}
__device__ __forceinline__ NearestKey smaller(NearestKey a, NearestKey b) { return b < a ? b : a; }

}  // namespace pact
