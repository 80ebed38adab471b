// What tokens receive from one query, the mean of EUTI or a single row: logits in one pass over the keys (and the norms
// of the hidden states, for EUTI), softmax statistics of the tokens per head, scores.
//
// A warp takes a token; the key heads are spread over groups of its lanes, so that a head of 128 needs half a warp.
// Each block leaves (max, sum of exp) of its tokens per head; a warp per head brings those together in a fixed order.
#pragma once

#include "attention_rows.cuh"
#include "euti_mean_kernel.cuh"

namespace pact {

constexpr int kEutiWarps = 8;
constexpr int kEutiTokens = 16;        // of a block
constexpr double kLargestNorm = 1e60;  // of finite rows

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

// <key, mean> of one head, this lane's share: vectors sub, sub + lanes, ...
template <typename T, bool kAligned>
__device__ inline float head_dot(const T* key, const float* mean, int head_size, int sub, int lanes) {
  constexpr int kVector = device::kPerVector<T>;
  float dot = 0;
  for (int k = sub * kVector; k < head_size; k += lanes * kVector) {
    const device::Vector<T> piece = load_piece<T, kAligned>(key + k, head_size - k);
#pragma unroll
    for (int q = 0; q < kVector; q += 4) {
      const device::Vector<float> other = load_piece<float, kAligned>(mean + k + q, head_size - k - q);
#pragma unroll
      for (int e = 0; e < 4; ++e) dot = fmaf(device::to_float(piece.at[q + e]), other.at[e], dot);
    }
  }
  return dot;
}

struct EutiShape {
  int n, width, head_size, key_heads, group;
  int lanes;  // of a key head: a power of two
};

// Of `n` tokens those that the query sees, a number that the device knows, or all.
__device__ inline int seen_tokens(const int* visible, int n) { return visible ? *visible : n; }

// Grid: chunks of kEutiTokens tokens. logits [n][heads], norm [n] or null, chunk_max and chunk_sum [heads][chunks].
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kEutiWarps * 32, 4)
    euti_logits_kernel(const T* __restrict__ hidden, int64_t hidden_stride, const T* __restrict__ keys,
                       int64_t key_stride, const float* __restrict__ query, EutiShape shape,
                       const int* __restrict__ visible, float scale, float* logits, double* __restrict__ norm,
                       float* __restrict__ chunk_max, float* __restrict__ chunk_sum, int* bad) {
  const int lane = device::lane_id(), heads = shape.key_heads * shape.group;
  const int per_pass = 32 / shape.lanes, slot = lane / shape.lanes, sub = lane % shape.lanes;
  const int64_t begin = int64_t(blockIdx.x) * kEutiTokens;
  const int64_t end = min(begin + kEutiTokens, int64_t(seen_tokens(visible, shape.n)));
  for (int64_t token = begin + device::warp_id(); token < end; token += blockDim.x / 32) {
    const double length = norm ? row_norm<T, kAligned>(hidden + token * hidden_stride, shape.width) : 0;
    if (norm && lane == 0) norm[token] = length;
    bool finite = length <= kLargestNorm;

    const T* row = keys + token * key_stride;
    for (int first = 0; first < shape.key_heads; first += per_pass) {
      const int key_head = first + slot;
      const T* key = row + int64_t(key_head) * shape.head_size;
#pragma unroll 2
      for (int g = 0; g < shape.group; ++g) {
        const int64_t head = int64_t(key_head) * shape.group + g;
        float dot = 0;
        if (key_head < shape.key_heads)
          dot = head_dot<T, kAligned>(key, query + head * shape.head_size, shape.head_size, sub, shape.lanes);
        for (int step = shape.lanes / 2; step > 0; step /= 2) dot += __shfl_xor_sync(device::kAllLanes, dot, step);
        finite = finite && is_finite(dot);
        if (sub == 0 && key_head < shape.key_heads) logits[token * heads + head] = bounded_logit(dot * scale);
      }
    }
    if (bad && __any_sync(device::kAllLanes, !finite)) {
      bool found = !(length <= kLargestNorm);
      for (int k = lane; k < shape.key_heads * shape.head_size; k += 32)
        found = found || !is_finite(device::to_float(row[k]));
      if (found) device::store_relaxed(bad, 1);
    }
  }
  __syncthreads();

  for (int head = threadIdx.x; head < heads; head += blockDim.x) {
    float largest = -kLargestLogit, sum = 0;
    for (int64_t token = begin; token < end; ++token) largest = fmaxf(largest, logits[token * heads + head]);
    for (int64_t token = begin; token < end; ++token) sum += expf(logits[token * heads + head] - largest);
    chunk_max[int64_t(head) * gridDim.x + blockIdx.x] = largest;
    chunk_sum[int64_t(head) * gridDim.x + blockIdx.x] = sum;
  }
}

// A warp per head: the largest logit, and what turns exp(logit - largest) into its share of the mean over heads.
__global__ void __launch_bounds__(32)
    euti_softmax_kernel(const float* __restrict__ chunk_max, const float* __restrict__ chunk_sum, int chunks,
                        float* __restrict__ head_max, float* __restrict__ head_factor) {
  const float* maxima = chunk_max + int64_t(blockIdx.x) * chunks;
  const float* sums = chunk_sum + int64_t(blockIdx.x) * chunks;
  float largest = -kLargestLogit, sum = 0;
#pragma unroll 8
  for (int c = device::lane_id(); c < chunks; c += 32) largest = fmaxf(largest, maxima[c]);
  largest = device::warp_max(largest);
#pragma unroll 8
  for (int c = device::lane_id(); c < chunks; c += 32) sum += sums[c] * expf(maxima[c] - largest);
  sum = device::warp_sum(sum);
  if (device::lane_id() > 0) return;
  head_max[blockIdx.x] = largest;
  head_factor[blockIdx.x] = 1 / (sum * float(gridDim.x));
}

// A warp per token.
__global__ void __launch_bounds__(kEutiWarps * 32)
    euti_score_kernel(const float* __restrict__ logits, const double* __restrict__ norm,
                      const float* __restrict__ head_max, const float* __restrict__ head_factor, int n, int heads,
                      const int* __restrict__ visible, float* __restrict__ scores) {
  const int64_t token = int64_t(blockIdx.x) * (blockDim.x / 32) + device::warp_id();
  if (token >= n) return;
  float weight = 0;
  const int seen = token < seen_tokens(visible, n) ? heads : 0;
  for (int head = device::lane_id(); head < seen; head += 32)
    weight += expf(logits[token * heads + head] - head_max[head]) * head_factor[head];
  weight = device::warp_sum(weight);
  if (device::lane_id() == 0) scores[token] = norm ? float(weight * norm[token]) : weight;
}

}  // namespace pact
