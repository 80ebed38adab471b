// The m largest scores, kept and dropped tokens each in ascending order, by one block.
//
// The m-th largest score is built bit by bit from the top (32 rounds of counting): scores share their exponents, so a
// histogram of digits would serialise its atomics on a few bins. The first kKeys tiles of scores stay in registers, the
// rest is read again each round, from cache. Then a stable compaction; of the tokens tied with the m-th largest, the
// first ones are kept.
#pragma once

#include "euti_finite.cuh"
#include "split_scan.cuh"

namespace pact {

constexpr int kSplitThreads = 1024;
constexpr unsigned kSplitSharedBytes = TileScan<unsigned long long>::kSharedBytes;

// Larger scores have larger keys. Both zeros have one key; NaN has the lowest, 0, which no number has.
__device__ inline uint32_t order_key(float score) {
  if (score != score) return 0;
  const uint32_t bits = __float_as_uint(score == 0 ? 0.0f : score);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

template <int kKeys>
__global__ void __launch_bounds__(kSplitThreads, 1)
    split_kernel(const float* __restrict__ scores, int n, int m, int* __restrict__ kept, int* __restrict__ dropped,
                 int* bad) {
  const int lane = device::lane_id(), warp = device::warp_id(), warps = blockDim.x / 32;
  const int64_t threads = blockDim.x;
  const device::Shared<int> counts = device::shared<int>(0, 64);

  uint32_t keys[kKeys];  // 0 past the end, as nothing counts it
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kKeys; ++k) {
    const int64_t i = k * threads + threadIdx.x;
    const float score = i < n ? scores[i] : 0;
    finite = finite && is_finite(score);
    keys[k] = i < n ? order_key(score) : 0;
  }
  for (int64_t i = kKeys * threads + threadIdx.x; i < n; i += threads) finite = finite && is_finite(scores[i]);
  if (bad && !finite) device::store_relaxed(bad, 1);

  // The largest threshold that at least m keys reach.
  uint32_t threshold = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t candidate = threshold | 1u << bit;
    int count = 0;
#pragma unroll
    for (int k = 0; k < kKeys; ++k) count += keys[k] >= candidate;
    for (int64_t i = kKeys * threads + threadIdx.x; i < n; i += threads) count += order_key(scores[i]) >= candidate;
    count = __reduce_add_sync(device::kAllLanes, count);
    const int half = bit % 2 * 32;  // not where a slow warp still reads the last round's
    if (lane == 0) counts[half + warp] = count;
    __syncthreads();
    if (__reduce_add_sync(device::kAllLanes, lane < warps ? int(counts[half + lane]) : 0) >= m) threshold = candidate;
  }
  __syncthreads();

  // Tokens above the threshold and tokens at it, counted together: above in the high half.
  const device::Shared<unsigned long long> warp_sums = device::shared<unsigned long long>(0, 64);
  int above = 0;
#pragma unroll
  for (int k = 0; k < kKeys; ++k) above += keys[k] > threshold;
  for (int64_t i = kKeys * threads + threadIdx.x; i < n; i += threads) above += order_key(scores[i]) > threshold;
  TileScan<unsigned long long> total_above(warp_sums);
  total_above.exclusive(above);
  const int ties_kept = m - int(total_above.total());
  __syncthreads();

  TileScan<unsigned long long> scan(warp_sums);
  float score = int(threadIdx.x) < n ? scores[threadIdx.x] : 0;
  for (int64_t base = 0; base < n; base += threads) {
    const int64_t i = base + threadIdx.x;
    const uint32_t key = order_key(score);
    if (i + threads < n) score = scores[i + threads];  // on its way during the scan
    const bool inside = i < n, is_above = inside && key > threshold, is_tie = inside && key == threshold;
    const unsigned long long before = scan.exclusive((is_above ? 1ull << 32 : 0) + is_tie);
    const int ties_before = int(before & 0xffffffffu);
    const int kept_before = int(before >> 32) + min(ties_before, ties_kept);
    if (is_above || (is_tie && ties_before < ties_kept))
      kept[kept_before] = int(i);
    else if (inside)
      dropped[i - kept_before] = int(i);
  }
}

}  // namespace pact
