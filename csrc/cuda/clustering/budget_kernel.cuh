// A number of centres: one number per token that orders both cases, ranks by it, the first of them compacted.
//
//   enough found     cluster size << 32 | density    0 for a token that is no centre
//   too few found    the largest number for a centre, the bits of its distance to its own centre for another token
//
// Four launches that depend on each other: sizes; numbers (a warp per token, which reads two rows); ranks by counting,
// n^2 comparisons; compaction by one block. Ranks are a permutation whatever the numbers, so exactly as many are taken.
#pragma once

#include "../gram/gram_distance.cuh"
#include "../nearest/nearest_key.cuh"
#include "../order/split_scan.cuh"
#include "../rows/row_dot.cuh"

namespace pact {

constexpr int kBudgetThreads = 256;
constexpr int kBudgetScanThreads = 1024;
constexpr unsigned kBudgetScanBytes = TileScan<int>::kSharedBytes;

// size [n] starts at zero.
__global__ void __launch_bounds__(kBudgetThreads)
    cluster_size_kernel(const int64_t* __restrict__ label, int n, int* __restrict__ size) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n && label[i] >= 0) atomicAdd(size + label[i], 1);
}

// The distance of two rows whose norms are summed as their product is: exactly 0 for equal rows. The warp calls.
template <typename T>
__device__ inline float distance_of_rows(const T* __restrict__ a, const T* __restrict__ b, int width) {
  const auto norm = [](float square) { return split_norm(square > 0 ? 1.0 / sqrt(double(square)) : 0.0); };
  const float2 a_norm = norm(dot_rows(a, a, width)), b_norm = norm(dot_rows(b, b, width));
  return cosine_distance(dot_rows(a, b, width), a_norm, b_norm);
}

template <typename T>
__global__ void __launch_bounds__(kBudgetThreads, 3)
    budget_number_kernel(const T* __restrict__ keys, int64_t stride, int width, const int* __restrict__ index,
                         const unsigned long long* __restrict__ density, const int64_t* __restrict__ label,
                         const int* __restrict__ size, int n, int wanted, bool at_most, const int* __restrict__ count,
                         const int* __restrict__ centers, const int* __restrict__ position,
                         unsigned long long* __restrict__ number) {
  const int64_t token = int64_t(blockIdx.x) * (blockDim.x / 32) + device::warp_id();
  if (token >= n) return;
  const bool enough = at_most || *count >= wanted;
  const int own = position[token];
  unsigned long long result = 0;
  if (enough) {
    if (own >= 0) result = static_cast<unsigned long long>(size[own]) << 32 | __float_as_uint(float(density[token]));
  } else if (own >= 0) {
    result = ~0ull - 1;
  } else if (label[token] >= 0) {
    const int center = centers[label[token]];
    const int64_t row = index ? index[token] : token, center_row = index ? index[center] : center;
    result = distance_bits(distance_of_rows(keys + row * stride, keys + center_row * stride, width));
  }
  if (device::lane_id() == 0) number[token] = result;
}

// Tokens of the first ranks, as many as are wanted, by one block of whole warps.
__global__ void __launch_bounds__(kBudgetScanThreads)
    budget_compact_kernel(const int* __restrict__ rank, int n, int wanted, bool at_most, int words,
                          int* __restrict__ count, int* __restrict__ centers, int* __restrict__ position,
                          uint32_t* __restrict__ is_center) {
  TileScan<int> scan(device::shared<int>(0, 64));
  const int taken = at_most && *count < wanted ? *count : wanted;
  for (int64_t base = 0; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const bool center = i < n && rank[i] < taken;
    const uint32_t bits = __ballot_sync(device::kAllLanes, center);
    const int before = scan.exclusive(center);
    if (i >= n) continue;
    if (center) centers[before] = int(i);
    position[i] = center ? before : -1;
    if (i % 32 == 0) is_center[i / 32] = bits;
  }
  for (int64_t w = (int64_t(n) + 31) / 32 + threadIdx.x; w < words; w += blockDim.x) is_center[w] = 0;
  if (threadIdx.x == 0) *count = scan.total();
}

// The tokens whose label is -1, by one block.
__global__ void __launch_bounds__(kBudgetScanThreads)
    unlabelled_kernel(const int64_t* __restrict__ labels, const int* __restrict__ index, int n, int* __restrict__ count,
                      int* __restrict__ tokens) {
  TileScan<int> scan(device::shared<int>(0, 64));
  for (int64_t base = 0; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const int token = i >= n ? 0 : (index ? index[i] : int(i));
    const bool found = i < n && labels[token] < 0;
    const int before = scan.exclusive(found);
    if (found) tokens[before] = token;
  }
  for (int64_t i = int64_t(scan.total()) + threadIdx.x; i < n; i += blockDim.x) tokens[i] = 0;
  if (threadIdx.x == 0) *count = scan.total();
}

__global__ void __launch_bounds__(kBudgetThreads)
    singletons_kernel(const int* __restrict__ index, int n, int* __restrict__ tokens, int64_t* __restrict__ centers,
                      int64_t* __restrict__ labels) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= n) return;
  const int token = index ? index[p] : int(p);
  tokens[p] = token;
  if (centers) centers[p] = token;
  labels[token] = p;
}

}  // namespace pact
