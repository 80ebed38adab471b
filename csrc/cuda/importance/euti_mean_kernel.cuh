// What EUTI reads of queries and hidden states: the mean of the queries over the tokens, in two stages of a fixed order
// (sums of chunks of rows, then over the chunks), and the norms of the hidden states. The first stage and the norms are
// one launch, bound by memory: nothing waits for the norms before the scores do.
#pragma once

#include "../device/convert.cuh"
#include "../device/warp.cuh"
#include "euti_finite.cuh"

namespace pact {

constexpr int kEutiReadThreads = 128;
constexpr int kQueryMeanWarps = 8;
constexpr unsigned kQueryMeanSharedBytes = kQueryMeanWarps * 32 * sizeof(float);
constexpr double kLargestNorm = 1e60;  // of finite rows

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

template <typename T>
struct EutiRows {
  const T* data;
  int64_t stride;
  int width;
};

// partial [chunks][width]: `column_blocks` blocks per chunk of rows. A sum that is not finite is rare, and only then
// are the elements looked at.
template <typename T, bool kAligned>
__device__ inline void sum_queries(const EutiRows<T>& queries, int n, int chunk_rows, int column_blocks,
                                   float* __restrict__ partial, int* bad) {
  constexpr int kVector = device::kPerVector<T>;
  const int chunk = int(blockIdx.x) / column_blocks, column_block = int(blockIdx.x) % column_blocks;
  const int64_t column = (int64_t(column_block) * blockDim.x + threadIdx.x) * kVector;
  if (column >= queries.width) return;
  const int valid = min(int64_t(kVector), queries.width - column);
  const int64_t begin = int64_t(chunk) * chunk_rows, end = min(begin + chunk_rows, int64_t(n));
  const T* from = queries.data + column;

  float sum[kVector] = {};
#pragma unroll 8
  for (int64_t i = begin; i < end; ++i) {
    const device::Vector<T> piece = load_piece<T, kAligned>(from + i * queries.stride, valid);
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum[e] += device::to_float(piece.at[e]);
  }

  float* to = partial + int64_t(chunk) * queries.width + column;
  bool finite = true;
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    if (e < valid) to[e] = sum[e];
    finite = finite && is_finite(sum[e]);
  }
  if (finite || !bad) return;
  for (int64_t i = begin; i < end; ++i)
    for (int e = 0; e < valid; ++e)
      if (!is_finite(device::to_float(from[i * queries.stride + e]))) device::store_relaxed(bad, 1);
}

// Sum of squares in double, for rows whose squares leave the range of float32: NaN or Inf only when an element is.
template <typename T>
__device__ inline double sum_of_squares(const T* row, int width) {
  double sum = 0;
  for (int k = device::lane_id(); k < width; k += 32) {
    const double x = device::to_float(row[k]);
    sum += x * x;
  }
  return device::warp_sum(sum);
}

template <typename T, bool kAligned>
__device__ inline double row_norm(const T* row, int width) {
  constexpr int kVector = device::kPerVector<T>;
  constexpr float kSmall = 0x1p-80f;  // below, squares of single elements may have been lost
  float sum = 0;
#pragma unroll 4
  for (int k = device::lane_id() * kVector; k < width; k += 32 * kVector) {
    const device::Vector<T> piece = load_piece<T, kAligned>(row + k, width - k);
    float own = 0;
#pragma unroll
    for (int e = 0; e < kVector; ++e) own = fmaf(device::to_float(piece.at[e]), device::to_float(piece.at[e]), own);
    sum += own;
  }
  sum = device::warp_sum(sum);
  if (sum >= kSmall && is_finite(sum)) return sqrtf(sum);
  return sqrt(sum_of_squares(row, width));
}

// The first `sum_blocks` blocks sum queries, column_blocks blocks to a chunk; the others take a token per warp.
// partial [chunks][queries.width], norm [n].
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kEutiReadThreads, 6)
    euti_read_kernel(EutiRows<T> queries, EutiRows<T> hidden, int n, int chunk_rows, int column_blocks, int sum_blocks,
                     float* __restrict__ partial, double* __restrict__ norm, int* bad) {
  if (int(blockIdx.x) < sum_blocks) {
    sum_queries<T, kAligned>(queries, n, chunk_rows, column_blocks, partial, bad);
    return;
  }
  const int64_t token = int64_t(int(blockIdx.x) - sum_blocks) * (blockDim.x / 32) + device::warp_id();
  if (token >= n) return;
  const double length = row_norm<T, kAligned>(hidden.data + token * hidden.stride, hidden.width);
  if (device::lane_id() > 0) return;
  norm[token] = length;
  if (bad && !(length <= kLargestNorm)) device::store_relaxed(bad, 1);
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
