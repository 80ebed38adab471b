// The rank of every token by (density as float32 descending, index ascending), by counting the tokens before it.
//
// A block compares a tile of tokens with tiles of others that lie in shared memory, read 16 bytes at a time by all
// threads at once: two instructions per pair, so n^2 pairs cost microseconds at n = 8192, with no passes that wait for
// each other.
#pragma once

#include "device/platform.cuh"

namespace pact {

constexpr int kRankTile = 256;  // threads of a block and tokens of a tile
constexpr unsigned kRankSharedBytes = kRankTile * sizeof(int);

// Ordered as float32(density * 2^-32) is: the factor is exact, and bits of floats >= 0 are ordered as integers.
__device__ inline int priority(unsigned long long density) { return __float_as_int(float(density)); }

// rank [n] starts at zero. Grid: (tiles, any); counts are integers, so the order of the atomics cannot be seen.
__global__ void __launch_bounds__(kRankTile)
    select_rank_kernel(const unsigned long long* __restrict__ density, int n, int* __restrict__ rank) {
  const device::Shared<int> tile = device::shared<int>(0, kRankTile);
  const device::Shared<int4> quads = device::shared<int4>(0, kRankTile / 4);
  const int tiles = int((int64_t(n) + kRankTile - 1) / kRankTile), own_tile = blockIdx.x;
  const int64_t i = int64_t(own_tile) * kRankTile + threadIdx.x;
  const int own = i < n ? priority(density[i]) : 0;

  int before = 0;
  for (int t = blockIdx.y; t < tiles; t += gridDim.y) {
    const int64_t j = int64_t(t) * kRankTile + threadIdx.x;
    tile[threadIdx.x] = j < n ? priority(density[j]) : -1;
    __syncthreads();
    if (t != own_tile) {
      const int limit = t < own_tile ? own - 1 : own;  // of equals, the lower index comes first
#pragma unroll 8
      for (int k = 0; k < kRankTile / 4; ++k) {
        const int4 other = quads[k];
        before += (other.x > limit) + (other.y > limit) + (other.z > limit) + (other.w > limit);
      }
    } else {
      for (int k = 0; k < kRankTile; ++k) {
        const int other = tile[k];
        before += other > own || (other == own && k < int(threadIdx.x));
      }
    }
    __syncthreads();
  }
  if (i < n && before) atomicAdd(rank + i, before);
}

// order[rank[i]] = i.
__global__ void __launch_bounds__(kRankTile)
    select_order_kernel(const int* __restrict__ rank, int n, int* __restrict__ order) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) order[rank[i]] = int(i);
}

}  // namespace pact
