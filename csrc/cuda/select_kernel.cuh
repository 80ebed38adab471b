// Greedy selection on adjacency bits: in rank order, a token becomes a centre unless a centre is among its neighbours.
//
// Warps take tokens in rank order from a counter. A token is decided as soon as a neighbour is a centre (not one), or
// all its outranking neighbours are decided and none is (one). A warp waits only for lower ranks: those are taken, by
// warps that run, so the lowest undecided rank always moves on, whatever the grid, and no barrier spans the grid.
//
// state[w] holds 32 tokens: decided in the low half, centre in the high half. One atomic publishes both bits, so
// nothing else has to be ordered.
#pragma once

#include "split_scan.cuh"

namespace pact {

constexpr int kSelectThreads = 256;
constexpr int kPendingWords = 8;  // 32 * 32 * 8 = 8192 tokens whose pending bits a warp keeps in registers
constexpr int kCompactThreads = 1024;
constexpr unsigned kCompactSharedBytes = TileScan<int>::kSharedBytes;

using SelectState = unsigned long long;

// `word`: each lane's 32 neighbours, those of lane 0 beginning at token 32 * first_word. Leaves those whose rank is
// below `rank_limit`. The warp takes one word at a time, so that ranks are read 32 in a row.
__device__ inline uint32_t keep_outranking(uint32_t word, int first_word, const int* __restrict__ rank, int n,
                                           int rank_limit) {
  const int lane = device::lane_id();
  uint32_t kept = 0;
  for (uint32_t rest = __ballot_sync(device::kAllLanes, word != 0); rest; rest &= rest - 1) {
    const int source = __ffs(rest) - 1;
    const uint32_t bits = __shfl_sync(device::kAllLanes, word, source);
    const int64_t j = (int64_t(first_word) + source) * 32 + lane;
    const bool outranks = (bits >> lane & 1) && j < n && rank[j] < rank_limit;
    const uint32_t found = __ballot_sync(device::kAllLanes, outranks);
    if (lane == source) kept = found;
  }
  return kept;
}

// Whether the token becomes a centre. The warp calls; returns once that is decided.
__device__ inline bool wins(const uint32_t* __restrict__ row, int used_words, const int* __restrict__ rank, int n,
                            int own_rank, const SelectState* state) {
  const int lane = device::lane_id();
  // A neighbour that is a centre outranks: otherwise it would have waited for this token.
  for (int base = 0; base < used_words; base += 32) {
    const int w = base + lane;
    const uint32_t word = w < used_words ? row[w] : 0;
    if (__any_sync(device::kAllLanes, word && (word & uint32_t(device::load_relaxed(state + w) >> 32)))) return false;
  }
  uint32_t pending[kPendingWords];
#pragma unroll
  for (int k = 0; k < kPendingWords; ++k) {
    const int w = k * 32 + lane;
    pending[k] = keep_outranking(w < used_words ? row[w] : 0, k * 32, rank, n, own_rank);
  }
  for (;;) {
    bool covered = false, blocked = false;
#pragma unroll
    for (int k = 0; k < kPendingWords; ++k) {
      if (!pending[k]) continue;
      const SelectState now = device::load_relaxed(state + k * 32 + lane);
      covered = covered || (pending[k] & uint32_t(now >> 32));
      pending[k] &= ~uint32_t(now);
      blocked = blocked || pending[k];
    }
    for (int base = kPendingWords * 32; base < used_words; base += 32) {
      const int w = base + lane;
      uint32_t word = w < used_words ? row[w] : 0;
      const SelectState now = word ? device::load_relaxed(state + w) : 0;
      covered = covered || (word & uint32_t(now >> 32));
      word = keep_outranking(word & ~uint32_t(now), base, rank, n, own_rank);
      blocked = blocked || word;
    }
    if (__any_sync(device::kAllLanes, covered)) return false;
    if (!__any_sync(device::kAllLanes, blocked)) return true;
    device::spin_pause();
  }
}

// next [1] and state [used words] start at zero.
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const uint32_t* __restrict__ adjacency, int words, int n, const int* __restrict__ rank,
                  const int* __restrict__ order, int* next, SelectState* state) {
  const int lane = device::lane_id();
  const int used_words = int((int64_t(n) + 31) / 32);
  for (;;) {
    int own_rank = 0;
    if (lane == 0) own_rank = atomicAdd(next, 1);
    own_rank = __shfl_sync(device::kAllLanes, own_rank, 0);
    if (own_rank >= n) return;
    const int token = order[own_rank];
    const bool center = wins(adjacency + size_t(token) * words, used_words, rank, n, own_rank, state);
    const SelectState decided = SelectState(1) << token % 32;
    if (lane == 0) atomicOr(state + token / 32, center ? decided | decided << 32 : decided);
  }
}

// Count, ascending centres, positions and bits, by one block.
__global__ void __launch_bounds__(kCompactThreads)
    select_compact_kernel(const SelectState* __restrict__ state, int n, int words, int* __restrict__ count,
                          int* __restrict__ centers, int* __restrict__ position, uint32_t* __restrict__ is_center) {
  TileScan<int> scan(device::shared<int>(0, 64));
  for (int64_t base = 0; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const uint32_t bits = i < n ? uint32_t(state[i / 32] >> 32) : 0;
    const bool center = bits >> (i % 32) & 1;
    const int before = scan.exclusive(center);
    if (i >= n) continue;
    if (center) centers[before] = int(i);
    position[i] = center ? before : -1;
    if (i % 32 == 0) is_center[i / 32] = bits;
  }
  for (int64_t w = (int64_t(n) + 31) / 32 + threadIdx.x; w < words; w += blockDim.x) is_center[w] = 0;
  if (threadIdx.x == 0) *count = scan.total();
}

}  // namespace pact
