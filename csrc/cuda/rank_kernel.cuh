// The rank of every token by (priority descending, index ascending), by counting the tokens before it.
//
// A block compares a tile of tokens with tiles of others that lie in shared memory, read 16 bytes at a time by all
// threads at once: two instructions per pair of 32-bit priorities, so n^2 pairs cost microseconds at n = 8192, with no
// passes that wait for each other.
#pragma once

#include "device/platform.cuh"

namespace pact {

constexpr int kRankTile = 256;  // threads of a block and tokens of a tile

// What tokens are ranked by: unsigned numbers of which the larger come first. 0 is behind the last token.

// Ordered as float32(density * 2^-32) is: the factor is exact, and bits of floats >= 0 are ordered as integers.
struct DensityPriority {
  const unsigned long long* density;
  __device__ unsigned operator()(int64_t i) const { return __float_as_uint(float(density[i])) + 1; }
};

// Floats of any sign. Both zeros are one; NaN comes last.
struct FloatPriority {
  const float* values;
  __device__ unsigned operator()(int64_t i) const {
    const float value = values[i];
    if (value != value) return 1;
    const unsigned bits = __float_as_uint(value == 0 ? 0.0f : value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
  }
};

// Numbers below 2^64 - 1.
struct NumberPriority {
  const unsigned long long* numbers;
  __device__ unsigned long long operator()(int64_t i) const { return numbers[i] + 1; }
};

template <typename Key>
struct alignas(16) RankKeys {
  Key at[16 / sizeof(Key)];
};

template <typename Priority>
using RankKey = decltype(std::declval<Priority>()(0));
template <typename Priority>
constexpr unsigned kRankSharedBytes = kRankTile * sizeof(RankKey<Priority>);

// rank [n] starts at zero. Grid: (tiles, any); counts are integers, so the order of the atomics cannot be seen.
template <typename Priority>
__global__ void __launch_bounds__(kRankTile) rank_kernel(Priority priority, int n, int* __restrict__ rank) {
  using Key = RankKey<Priority>;
  constexpr int kPerRead = 16 / sizeof(Key);
  const device::Shared<Key> tile = device::shared<Key>(0, kRankTile);
  const device::Shared<RankKeys<Key>> reads = device::shared<RankKeys<Key>>(0, kRankTile / kPerRead);
  const int tiles = int((int64_t(n) + kRankTile - 1) / kRankTile), own_tile = blockIdx.x;
  const int64_t i = int64_t(own_tile) * kRankTile + threadIdx.x;
  const Key own = i < n ? priority(i) : 1;

  int before = 0;
  for (int t = blockIdx.y; t < tiles; t += gridDim.y) {
    const int64_t j = int64_t(t) * kRankTile + threadIdx.x;
    tile[threadIdx.x] = j < n ? priority(j) : Key(0);
    __syncthreads();
    if (t != own_tile) {
      const Key limit = t < own_tile ? own - 1 : own;  // of equals, the lower index comes first
#pragma unroll 8
      for (int k = 0; k < kRankTile / kPerRead; ++k) {
        const RankKeys<Key> other = reads[k];
#pragma unroll
        for (int e = 0; e < kPerRead; ++e) before += other.at[e] > limit;
      }
    } else {
      for (int k = 0; k < kRankTile; ++k) {
        const Key other = tile[k];
        before += other > own || (other == own && k < int(threadIdx.x));
      }
    }
    __syncthreads();
  }
  if (i < n && before) atomicAdd(rank + i, before);
}

// order[rank[i]] = i. A template, as several launchers include it.
template <typename Index>
__global__ void __launch_bounds__(kRankTile)
    order_kernel(const Index* __restrict__ rank, int n, Index* __restrict__ order) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) order[rank[i]] = Index(i);
}

}  // namespace pact
