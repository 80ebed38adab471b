// A row, of any alignment, by a warp.
#pragma once

#include "../device/convert.cuh"
#include "../device/warp.cuh"

namespace pact {

constexpr int kRowThreads = 256;  // a warp per row

__device__ __forceinline__ bool is_vector_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls f(k, elements) for the row's elements, a vector per lane at a time, zeros from `width` up to `padded`.
template <typename T, typename F>
__device__ __forceinline__ void for_each_vector(const T* row, int width, int padded, const F& f) {
  constexpr int kVector = device::kPerVector<T>;
  const bool aligned = is_vector_aligned(row);
  for (int k = device::lane_id() * kVector; k < padded; k += 32 * kVector) {
    device::Vector<T> vector;
    if (aligned && k + kVector <= width) {
      vector = device::load_vector(row + k);
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) vector.at[e] = k + e < width ? row[k + e] : device::from_float<T>(0.0f);
    }
    f(k, vector);
  }
}

}  // namespace pact
