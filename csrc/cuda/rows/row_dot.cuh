// The dot product of two rows, by a warp.
#pragma once

#include "../device/convert.cuh"
#include "../device/warp.cuh"

namespace pact {

// <a, b> of two aligned rows. The order of its sum depends on the width alone, so equal rows have equal products.
template <typename T>
__device__ inline float dot_rows(const T* __restrict__ a, const T* __restrict__ b, int width) {
  constexpr int kVector = device::kPerVector<T>;
  float sum = 0;
  for (int k = device::lane_id() * kVector; k < width; k += 32 * kVector) {
    const device::Vector<T> x = device::load_vector(a + k), y = device::load_vector(b + k);
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum = fmaf(device::to_float(x.at[e]), device::to_float(y.at[e]), sum);
  }
  return device::warp_sum(sum);
}

}  // namespace pact
