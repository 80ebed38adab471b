// The rank of every token by (priority descending, index ascending), by counting the tokens before it.
//
// A block ranks 32 tokens, one to a lane: its warps take tiles of the others, which they stage in shared memory and
// read 16 bytes at a time, all lanes at once. That is two instructions per pair of 32-bit priorities, so n^2 pairs cost
// microseconds at n = 8192, with no passes that wait for each other; and as a block knows the whole rank, whatever is
// made of ranks is stored in the same launch.
#pragma once

#include "../device/warp.cuh"

namespace pact {

constexpr int kRankWarps = 16;
constexpr int kRankTile = 128;  // tokens of a warp's tile

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
constexpr unsigned kRankCountsBytes = kRankWarps * 32 * sizeof(int);
template <typename Priority>
constexpr unsigned kRankSharedBytes = kRankCountsBytes + kRankWarps * kRankTile * sizeof(RankKey<Priority>);

// What becomes of ranks.
struct StoreRank {
  int* rank;
  __device__ void operator()(int64_t i, int own) const { rank[i] = own; }
};
struct StoreRankAndOrder {
  int *rank, *order;
  __device__ void operator()(int64_t i, int own) const {
    rank[i] = own;
    order[own] = int(i);
  }
};

// Calls store(i, rank of i) once for every token. Grid: a block for 32 tokens.
template <typename Priority, typename Store>
__global__ void __launch_bounds__(kRankWarps * 32) rank_kernel(Priority priority, int n, Store store) {
  using Key = RankKey<Priority>;
  constexpr int kPerRead = 16 / sizeof(Key);
  const int lane = device::lane_id(), warp = device::warp_id();
  const unsigned tile_offset = kRankCountsBytes + unsigned(warp) * kRankTile * unsigned(sizeof(Key));
  const device::Shared<Key> tile = device::shared<Key>(tile_offset, kRankTile);
  const device::Shared<RankKeys<Key>> reads = device::shared<RankKeys<Key>>(tile_offset, kRankTile / kPerRead);
  const device::Shared<int> counts = device::shared<int>(0, kRankWarps * 32);
  const int tiles = int((int64_t(n) + kRankTile - 1) / kRankTile), own_tile = int(blockIdx.x / (kRankTile / 32));
  const int64_t i = int64_t(blockIdx.x) * 32 + lane;
  const Key own = i < n ? priority(i) : 1;

  int before = 0;
  for (int t = warp; t < tiles; t += kRankWarps) {
    const int64_t first = int64_t(t) * kRankTile;
#pragma unroll
    for (int k = lane; k < kRankTile; k += 32) tile[k] = first + k < n ? priority(first + k) : Key(0);
    __syncwarp();
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
        before += other > own || (other == own && first + k < i);
      }
    }
    __syncwarp();  // all are done with the tile
  }
  counts[warp * 32 + lane] = before;
  __syncthreads();
  if (warp > 0 || i >= n) return;
  int rank = 0;
#pragma unroll
  for (int w = 0; w < kRankWarps; ++w) rank += counts[w * 32 + lane];
  store(i, rank);
}

}  // namespace pact
