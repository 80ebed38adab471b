// Greedy selection on adjacency bits: in rank order, a token becomes a centre unless a centre is among its neighbours.
//
// Warps take tokens in rank order from a counter. A token is decided as soon as a neighbour is a centre (not one), or
// all its outranking neighbours are decided and none is (one). A warp waits only for lower ranks: those are taken, by
// warps that run, so the lowest undecided rank always moves on, whatever the grid, and no barrier spans the grid.
//
// state[w] holds 32 tokens: decided in the low half, centre in the high half. One atomic publishes both bits, so
// nothing else has to be ordered.
#pragma once

#include "../order/rank_kernel.cuh"
#include "../order/split_scan.cuh"

namespace pact {

constexpr int kSelectThreads = 256;
constexpr int kTokensOfWords = 32 * 32;  // that a word to each lane holds bits of
constexpr int kRanksAtOnce = 4;
constexpr int kCompactThreads = 1024;
constexpr unsigned kCompactSharedBytes = TileScan<int>::kSharedBytes;

using SelectState = unsigned long long;

// With the ranks, what select_kernel starts from: nothing decided, no rank taken.
struct StartSelect {
  StoreRankAndOrder ranks;
  int* next;           // [1]
  SelectState* state;  // [used words]
  __device__ void operator()(int64_t i, int own) const {
    ranks(i, own);
    if (i % 32 == 0) state[i / 32] = 0;
    if (i == 0) *next = 0;
  }
};

// `word`: each lane's 32 neighbours, those of lane 0 beginning at token 32 * first_word. Leaves those whose rank is
// below `rank_limit`. The warp takes one word after the other, so that ranks are read 32 in a row, of several words
// under way together.
__device__ inline uint32_t keep_outranking(uint32_t word, int first_word, const int* __restrict__ rank, int n,
                                           int rank_limit) {
  const int lane = device::lane_id();
  uint32_t kept = 0;
  for (uint32_t rest = __ballot_sync(device::kAllLanes, word != 0); rest;) {
    int source[kRanksAtOnce];  // -1: no word is left
    bool outranks[kRanksAtOnce];
#pragma unroll
    for (int r = 0; r < kRanksAtOnce; ++r) {
      source[r] = __ffs(rest) - 1;
      rest &= rest - 1;
    }
#pragma unroll
    for (int r = 0; r < kRanksAtOnce; ++r) {
      const uint32_t bits = __shfl_sync(device::kAllLanes, word, max(source[r], 0));
      const int64_t j = (int64_t(first_word) + source[r]) * 32 + lane;
      outranks[r] = source[r] >= 0 && (bits >> lane & 1) && j < n && rank[j] < rank_limit;
    }
#pragma unroll
    for (int r = 0; r < kRanksAtOnce; ++r) {
      const uint32_t found = __ballot_sync(device::kAllLanes, outranks[r]);
      if (lane == source[r]) kept = found;
    }
  }
  return kept;
}

// Whether the token becomes a centre. The warp calls; returns once that is decided. The neighbours that are waited for
// stay in registers, kWords words to a lane; those of the words behind are found again at every look.
template <int kWords>
__device__ inline bool wins(const uint32_t* __restrict__ row, int used_words, const int* __restrict__ rank, int n,
                            int own_rank, const SelectState* state) {
  const int lane = device::lane_id();
  uint32_t pending[kWords];
  SelectState now[kWords];
#pragma unroll
  for (int k = 0; k < kWords; ++k) pending[k] = k * 32 + lane < used_words ? row[k * 32 + lane] : 0;
  for (bool ranked = false;; ranked = true) {
    bool covered = false, blocked = false;
#pragma unroll
    for (int k = 0; k < kWords; ++k) now[k] = pending[k] ? device::load_relaxed(state + k * 32 + lane) : 0;
    // A neighbour that is a centre outranks: otherwise it would have waited for this token.
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      covered = covered || (pending[k] & uint32_t(now[k] >> 32));
      pending[k] &= ~uint32_t(now[k]);
    }
    if (__any_sync(device::kAllLanes, covered)) return false;
    if (!ranked) {
#pragma unroll
      for (int k = 0; k < kWords; ++k) pending[k] = keep_outranking(pending[k], k * 32, rank, n, own_rank);
    }
#pragma unroll
    for (int k = 0; k < kWords; ++k) blocked = blocked || pending[k];
    for (int base = kWords * 32; base < used_words; base += 32) {
      const int w = base + lane;
      const uint32_t word = w < used_words ? row[w] : 0;
      const SelectState there = word ? device::load_relaxed(state + w) : 0;
      covered = covered || (word & uint32_t(there >> 32));
      blocked = keep_outranking(word & ~uint32_t(there), base, rank, n, own_rank) || blocked;
    }
    if (__any_sync(device::kAllLanes, covered)) return false;
    if (!__any_sync(device::kAllLanes, blocked)) return true;
    device::spin_pause();
  }
}

// StartSelect has been called for every token.
template <int kWords>
__global__ void __launch_bounds__(kSelectThreads, kWords > 8 ? 3 : 5)
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
    const bool center = wins<kWords>(adjacency + size_t(token) * words, used_words, rank, n, own_rank, state);
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
