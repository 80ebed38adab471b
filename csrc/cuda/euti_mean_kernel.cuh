// Mean of the queries over the tokens, in two stages of a fixed order: sums of chunks of rows, then over the chunks.
#pragma once

#include "device/convert.cuh"
#include "device/warp.cuh"
#include "euti_finite.cuh"

namespace pact {

constexpr int kQuerySumThreads = 128;
constexpr int kQueryMeanWarps = 8;
constexpr unsigned kQueryMeanSharedBytes = kQueryMeanWarps * 32 * sizeof(float);

// A thread always owns whole vectors of elements, and only how they are loaded depends on the alignment: the bits of a
// result do not. Elements from `valid` on are zero; aligned rows are whole vectors.
template <typename T, bool kAligned>
__device__ inline device::Vector<T> load_piece(const T* from, int valid) {
  if constexpr (kAligned) {
    return device::load_vector(from);
  } else {
    device::Vector<T> piece;
#pragma unroll
    for (int e = 0; e < device::kPerVector<T>; ++e) piece.at[e] = e < valid ? from[e] : device::from_float<T>(0);
    return piece;
  }
}

// partial [chunks][width]. Grid: (blocks of columns, chunks). A sum that is not finite is rare, and only then are the
// elements looked at.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kQuerySumThreads, 6)
    euti_query_sum_kernel(const T* __restrict__ queries, int64_t stride, int width, int n, int chunk_rows,
                          float* __restrict__ partial, int* bad) {
  constexpr int kVector = device::kPerVector<T>;
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kVector;
  if (column >= width) return;
  const int valid = min(int64_t(kVector), width - column);
  const int64_t begin = int64_t(blockIdx.y) * chunk_rows, end = min(begin + chunk_rows, int64_t(n));
  const T* from = queries + column;

  float sum[kVector] = {};
#pragma unroll 8
  for (int64_t i = begin; i < end; ++i) {
    const device::Vector<T> piece = load_piece<T, kAligned>(from + i * stride, valid);
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum[e] += device::to_float(piece.at[e]);
  }

  float* to = partial + int64_t(blockIdx.y) * width + column;
  bool finite = true;
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    if (e < valid) to[e] = sum[e];
    finite = finite && is_finite(sum[e]);
  }
  if (finite || !bad) return;
  for (int64_t i = begin; i < end; ++i)
    for (int e = 0; e < valid; ++e)
      if (!is_finite(device::to_float(from[i * stride + e]))) device::store_relaxed(bad, 1);
}

// A warp takes every kQueryMeanWarps-th chunk of 32 columns.
__global__ void __launch_bounds__(kQueryMeanWarps * 32)
    euti_query_mean_kernel(const float* __restrict__ partial, int chunks, int width, int n, float* __restrict__ mean) {
  const device::Shared<float> sums = device::shared<float>(0, kQueryMeanWarps * 32);
  const int64_t column = int64_t(blockIdx.x) * 32 + device::lane_id();
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int c = device::warp_id(); c < chunks; c += kQueryMeanWarps) sum += partial[int64_t(c) * width + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (device::warp_id() > 0 || column >= width) return;
#pragma unroll
  for (int w = 1; w < kQueryMeanWarps; ++w) sum += sums[w * 32 + threadIdx.x];
  mean[column] = sum / float(n);
}

}  // namespace pact
