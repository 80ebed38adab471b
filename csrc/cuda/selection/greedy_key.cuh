// The keys whose maximum is a greedy choice, and the block's part in it.
#pragma once

#include "../device/warp.cuh"
#include "greedy.h"

namespace pact {

constexpr int kGreedyThreads = 256;  // a warp per token
constexpr int kGreedyWarps = kGreedyThreads / 32;
constexpr unsigned kGreedySharedBytes = kGreedyWarps * sizeof(GreedyKey);  // of one `offer`

__device__ __forceinline__ GreedyKey greedy_key(unsigned ordered_bits, int token) {
  return static_cast<GreedyKey>(ordered_bits) << 32 | ~static_cast<unsigned>(token);
}
__device__ __forceinline__ unsigned bits_of(GreedyKey key) { return static_cast<unsigned>(key >> 32); }
// Token 0 when no token came, so that a row of keys can always be read.
__device__ __forceinline__ int token_of(GreedyKey key) {
  return key ? static_cast<int>(~static_cast<unsigned>(key)) : 0;
}

// The largest of the warps' keys goes to the slot by one atomic. All threads call; lane 0's key counts. Several calls
// need different shared memory.
__device__ __forceinline__ void offer(GreedyKey key, GreedyKey* slot, unsigned shared_offset) {
  const device::Shared<GreedyKey> keys = device::shared<GreedyKey>(shared_offset, kGreedyWarps);
  if (device::lane_id() == 0) keys[device::warp_id()] = key;
  __syncthreads();
  if (threadIdx.x != 0) return;
  GreedyKey largest = 0;
  for (int w = 0; w < kGreedyWarps; ++w) {
    const GreedyKey other = keys[w];
    largest = max(largest, other);
  }
  if (largest) atomicMax(slot, largest);
}

// The token that this warp works for; n or more when there is none.
__device__ __forceinline__ int64_t greedy_token() {
  return static_cast<int64_t>(blockIdx.x) * kGreedyWarps + device::warp_id();
}

}  // namespace pact
