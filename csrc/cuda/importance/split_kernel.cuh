// The m largest scores, kept and dropped tokens each in ascending order, by one block.
//
// The m-th largest score is found digit by digit from the top, 8 bits each, by counting the digits of the scores that
// agree with it so far: one barrier per digit, as each has counters of its own and every warp looks for the digit
// itself. Scores share their exponents, so that the first digits meet in a few counters; equal ones of a warp are
// counted in one step (atomicAdd of 1 without a result). Digits that would tell apart only what is kept are left out.
//
// Then a stable compaction: tiles of as many tokens as there are threads, kKeys of them to a round, counted by ballots
// and added up by a warp per tile. Of the tokens tied with the m-th largest, the first ones are kept. The first round's
// keys stay in registers, the rest is read again, from cache. What fills the last tile has the lowest key and comes
// last: it is counted like a token and never chosen.
#pragma once

#include "../order/split_scan.cuh"
#include "euti_finite.cuh"

namespace pact {

constexpr int kSplitThreads = 1024;
constexpr int kDigits = 4, kDigitValues = 256;
constexpr int kMostSplitKeys = 16;
// Counters of digits; later those of the tokens of a round [tile][warp], and of the tiles.
constexpr unsigned kSplitSharedBytes = kDigits * kDigitValues * sizeof(int) + kMostSplitKeys * sizeof(int);
static_assert(kDigits * kDigitValues >= kMostSplitKeys * 32);

// Larger scores have larger keys. Both zeros have one key; NaN has the lowest, 0, which no number has.
__device__ inline uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  const uint32_t flipped = bits >> 31 ? ~0u : 0x80000000u;
  return score != score ? 0 : bits ^ flipped;
}

struct FoundDigit {
  int digit;
  int place;  // of the wanted one, from 1, among those with this digit
  int count;  // of those with this digit
};

// The digit of the `wanted`-th largest among those counted. The warp calls; lane l looks at the digits 255 - 8 l down
// to 248 - 8 l.
__device__ inline FoundDigit find_digit(device::Shared<int4> counters, int wanted) {
  const int lane = device::lane_id();
  const int4 low = counters[62 - 2 * lane], high = counters[63 - 2 * lane];
  const int count[8] = {high.w, high.z, high.y, high.x, low.w, low.z, low.y, low.x};
  int through = 0;
#pragma unroll
  for (int d = 0; d < 8; ++d) through += count[d];
  const int own = through;
  through = sum_up_to_lane(through);
  FoundDigit found{255 - 8 * lane, wanted - (through - own), count[0]};
#pragma unroll
  for (int d = 1; d < 8; ++d)
    if (found.place > found.count) found = {255 - 8 * lane - d, found.place - found.count, count[d]};
  const int source = __ffs(__ballot_sync(device::kAllLanes, through >= wanted)) - 1;
  found.digit = __shfl_sync(device::kAllLanes, found.digit, source);
  found.place = __shfl_sync(device::kAllLanes, found.place, source);
  found.count = __shfl_sync(device::kAllLanes, found.count, source);
  return found;
}

// A tile's tokens above the threshold and, from this bit on, those at it: in one number.
constexpr int kTiesShift = 16;

template <int kKeys>
__global__ void __launch_bounds__(kSplitThreads, 1)
    split_kernel(const float* __restrict__ scores, unsigned n, int m, int* __restrict__ kept, int* __restrict__ dropped,
                 int* bad) {
  static_assert(kKeys <= kMostSplitKeys);
  const int lane = device::lane_id(), warp = device::warp_id(), warps = blockDim.x / 32;
  const unsigned threads = blockDim.x, round = kKeys * threads;
  const device::Shared<int> counters = device::shared<int>(0, kDigits * kDigitValues);
  const device::Shared<int> tile_sums = device::shared<int>(kDigits * kDigitValues * sizeof(int), kMostSplitKeys);

  uint32_t keys[kKeys];
  unsigned largest = 0;  // magnitude
  const auto load_keys = [&](unsigned begin) {
    float score[kKeys];
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      const unsigned i = begin + k * threads + threadIdx.x;
      score[k] = i < n ? scores[i] : -0.0f;
    }
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      largest = max(largest, __float_as_uint(score[k]) & 0x7fffffffu);
      keys[k] = begin + k * threads + threadIdx.x < n ? order_key(score[k]) : 0;
    }
  };
  load_keys(0);
  for (int d = threadIdx.x; d < kDigits * kDigitValues; d += int(threads)) counters[d] = 0;
  for (unsigned i = round + threadIdx.x; i < n; i += threads)
    largest = max(largest, __float_as_uint(scores[i]) & 0x7fffffffu);
  if (bad && !is_finite(__uint_as_float(largest))) device::store_relaxed(bad, 1);
  __syncthreads();

  uint32_t threshold = 0;  // the m-th largest key
  int ties_kept = m;
#pragma unroll
  for (int digit = 0; digit < kDigits; ++digit) {
    const int shift = 24 - 8 * digit;
    const uint32_t known = digit ? ~0u << (shift + 8) : 0;
    const auto count = [&](uint32_t key) {
      if (!((key ^ threshold) & known)) atomicAdd(&counters[digit * kDigitValues + int(key >> shift & 0xff)], 1);
    };
#pragma unroll
    for (int k = 0; k < kKeys; ++k) count(keys[k]);
#pragma unroll 4
    for (unsigned i = round + threadIdx.x; i < n; i += threads) count(order_key(scores[i]));
    __syncthreads();
    const FoundDigit found =
        find_digit(device::shared<int4>(digit * kDigitValues * sizeof(int), kDigitValues / 4), ties_kept);
    threshold |= uint32_t(found.digit) << shift;
    ties_kept = found.place;
    if (found.place == found.count && threshold > 0) {  // all that agree so far are kept
      threshold -= 1;
      ties_kept = 0;
      break;
    }
  }
  __syncthreads();  // the counters are free

  int above_before = 0, ties_before = 0;  // in the tiles before
  for (unsigned begin = 0; begin < n; begin += round) {
    if (begin > 0) {
      __syncthreads();  // all are done with the round before
      load_keys(begin);
    }
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      const unsigned above = __ballot_sync(device::kAllLanes, keys[k] > threshold);
      const unsigned ties = __ballot_sync(device::kAllLanes, keys[k] == threshold);
      if (lane == 0) counters[k * 32 + warp] = __popc(above) | __popc(ties) << kTiesShift;
    }
    __syncthreads();
    for (int k = warp; k < kKeys; k += warps) {
      const int own = lane < warps ? int(counters[k * 32 + lane]) : 0;
      const int through = sum_up_to_lane(own);
      if (lane < warps) counters[k * 32 + lane] = through - own;
      if (lane == 31) tile_sums[k] = through;
    }
    __syncthreads();
    const unsigned lower = (1u << lane) - 1;
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      const unsigned i = begin + k * threads + threadIdx.x;
      const unsigned above = __ballot_sync(device::kAllLanes, keys[k] > threshold) & lower;
      const unsigned ties = __ballot_sync(device::kAllLanes, keys[k] == threshold) & lower;
      const int of_tile = counters[k * 32 + warp], of_all = tile_sums[k];
      const int tied = ties_before + (of_tile >> kTiesShift) + __popc(ties);
      const int place = above_before + (of_tile & 0xffff) + __popc(above) + min(tied, ties_kept);
      if (keys[k] > threshold || (keys[k] == threshold && tied < ties_kept))
        kept[place] = int(i);
      else if (i < n)
        dropped[int(i) - place] = int(i);
      above_before += of_all & 0xffff;
      ties_before += of_all >> kTiesShift;
    }
  }
}

}  // namespace pact
