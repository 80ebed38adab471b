// Keys made ready for the Gram kernels: rows packed and scaled, reciprocal norms.
//
// A squared norm must have the bits of the Gram kernel's product of the row with itself, or equal keys would not be at
// distance 0. So it is summed by the same instructions in the same order: on tensor cores as the diagonal of a 16 x 16
// product (a warp per 16 rows; the rows' fragments serve as both operands), in float32 by one chain of FFMA per row.
#pragma once

#include "device/mma.cuh"
#include "device/warp.cuh"
#include "gram.cuh"
#include "magnitude.cuh"
#include "row_vectors.cuh"

namespace pact {

constexpr int kNormThreads = 64;  // small blocks: there are few warps to spread over the SMs
constexpr int kNormRowsPerWarp = 16;

// out[i] = rows[index ? index[i] : i], zero-padded from `width` to `out_width`. Rows of float32 and bfloat16 are scaled
// by a power of two to a largest element in [0.5, 1), which loses nothing and keeps sums of squares in range.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    pack_rows_kernel(const T* __restrict__ rows, int64_t stride, int width, const int* __restrict__ index, int n,
                     T* __restrict__ out, int out_width) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + device::warp_id();
  if (i >= n) return;
  const T* row = rows + (index ? index[i] : i) * stride;
  float scale = 1.0f;
  if constexpr (!std::is_same_v<T, device::float16>) {
    unsigned largest = 0;
    for_each_vector(row, width, width, [&](int, const device::Vector<T>& vector) {
#pragma unroll
      for (int e = 0; e < device::kPerVector<T>; ++e) largest = max(largest, magnitude_bits(vector.at[e]));
    });
    scale = power_of_two_scale(__reduce_max_sync(device::kAllLanes, largest));
  }
  for_each_vector(row, width, out_width, [&](int k, device::Vector<T> vector) {
#pragma unroll
    for (int e = 0; e < device::kPerVector<T>; ++e)
      vector.at[e] = device::from_float<T>(device::to_float(vector.at[e]) * scale);
    device::store_vector(out + i * out_width + k, vector);
  });
}

// *bad = 1 when an element of any row is NaN or Inf.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    check_rows_kernel(const T* __restrict__ rows, int64_t stride, int width, int n, int* __restrict__ bad) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + device::warp_id();
  if (i >= n) return;
  unsigned largest = 0;
  for_each_vector(rows + i * stride, width, width, [&](int, const device::Vector<T>& vector) {
#pragma unroll
    for (int e = 0; e < device::kPerVector<T>; ++e) largest = max(largest, magnitude_bits(vector.at[e]));
  });
  if (__any_sync(device::kAllLanes, largest >= kInfinityBits) && device::lane_id() == 0) device::store_relaxed(bad, 1);
}

// Whether one of two packed halves is NaN or Inf.
template <typename T>
__device__ __forceinline__ bool has_nonfinite(uint32_t pair) {
  constexpr uint32_t kExponent = std::is_same_v<T, device::float16> ? 0x7c00 : 0x7f80;
  return ((pair & kExponent) == kExponent) | ((pair >> 16 & kExponent) == kExponent);
}

// Aligned rows of float16 or bfloat16.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kNormThreads)
    norms_kernel(const T* __restrict__ rows, int64_t stride, int width, int n, double* __restrict__ inv_norm,
                 int* __restrict__ bad) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * (kNormThreads / 32) + device::warp_id()) * kNormRowsPerWarp;
  const int group = device::lane_id() / 4, in_group = device::lane_id() % 4;
  const bool valid[2] = {first + group < n, first + group + 8 < n};
  const T* row[2] = {rows + (valid[0] ? first + group : 0) * stride,
                     rows + (valid[1] ? first + group + 8 : 0) * stride};
  float upper[4] = {}, lower[4] = {};  // the warp's rows times its rows 0..7, and times its rows 8..15
  float upper_total[4] = {}, lower_total[4] = {};
  bool nonfinite = false;
#pragma unroll 4
  for (int k = 0; k < width; k += 16) {
    uint32_t a[4];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int at = k + q / 2 * 8 + in_group * 2;
      // Without branches, so that the loads of an unrolled step are all in flight; row[] exists either way.
      const bool inside = valid[q % 2] && at < width;
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(row[q % 2] + (inside ? at : 0));
      a[q] = inside ? pair : 0;
      nonfinite |= has_nonfinite<T>(a[q]);
    }
    device::mma_m16n8k16<T>(upper, a, a[0], a[2]);
    device::mma_m16n8k16<T>(lower, a, a[1], a[3]);
    if (kFold && ((k + 16) % kFoldTerms == 0 || k + 16 >= width)) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        upper_total[q] += upper[q];
        lower_total[q] += lower[q];
        upper[q] = lower[q] = 0;
      }
    }
  }
  if (bad && nonfinite) device::store_relaxed(bad, 1);
  if (in_group != group / 2) return;  // who holds the diagonal
  const float* squares = kFold ? upper_total : upper;
  if (valid[0]) inv_norm[first + group] = inverse_norm(group % 2 ? squares[1] : squares[0]);
  squares = kFold ? lower_total : lower;
  if (valid[1]) inv_norm[first + group + 8] = inverse_norm(group % 2 ? squares[3] : squares[2]);
}

// Aligned rows of float32, a thread per row.
__global__ void __launch_bounds__(kNormThreads)
    float_norms_kernel(const float* __restrict__ rows, int64_t stride, int width, int n, double* __restrict__ inv_norm,
                       int* __restrict__ bad) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNormThreads + threadIdx.x;
  if (i >= n) return;
  float sum = 0, total = 0;
  bool nonfinite = false;
#pragma unroll 4
  for (int k = 0; k < width; k += 4) {
    const device::Vector<float> x = device::load_vector(rows + i * stride + k);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sum = fmaf(x.at[e], x.at[e], sum);
      nonfinite |= magnitude_bits(x.at[e]) >= kInfinityBits;
    }
    if ((k + 4) % kFoldTerms == 0 || k + 4 >= width) {
      total += sum;
      sum = 0;
    }
  }
  if (bad && nonfinite) device::store_relaxed(bad, 1);
  inv_norm[i] = inverse_norm(total);
}

}  // namespace pact
