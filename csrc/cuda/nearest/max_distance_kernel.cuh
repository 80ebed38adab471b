// The largest pairwise distance, or also who has it: Gram tiles of the upper triangle, a maximum per block, one atomic
// each.
//
// Distances are not negative, so their bits order as they do, with NaN above all: the maximum is one of unsigned
// integers. Below the bits, in a 64-bit integer, the lower token of the pair: of equal distances the lowest wins.
#pragma once

#include "../gram/gram_pairs.cuh"
#include "../selection/greedy_key.cuh"
#include "nearest_key.cuh"

namespace pact {

template <typename Key, typename Shape>
constexpr unsigned kMaxDistanceSharedBytes = kOwnOffset<Shape> + Shape::kThreads / 32 * sizeof(Key);

template <typename Key>
__device__ __forceinline__ Key pair_key(unsigned bits, int i) {
  if constexpr (std::is_same_v<Key, GreedyKey>)
    return greedy_key(bits, i);
  else
    return bits;
}

// Of the thread's pairs.
template <typename Key, bool kAll, typename Shape>
__device__ __forceinline__ Key largest_of_thread(typename Shape::Panel& panel, const CountedPairs<Shape>& counted,
                                                 int row_first) {
  Key largest = 0;
  unsigned of_row = 0;
  for_each_pair<kAll>(
      panel, counted,
      [&](int, int c, float half, bool counts) {
        const unsigned bits = kAll ? __float_as_uint(half) : distance_bits(half) & (counts ? ~0u : 0u);
        of_row = c ? max(of_row, bits) : bits;
      },
      [&](int r) {
        const unsigned bits = distance_bits(2 * __uint_as_float(of_row));
        largest = max(largest, pair_key<Key>(bits, row_first + counted.place().row(r)));
      });
  return largest;
}

// Key: unsigned, the distance's bits alone, or GreedyKey. A row without pairs may offer distance 0 for its token: token
// 0 offers that, too, and goes before.
template <typename T, typename Shape, typename Key>
__device__ __forceinline__ void largest_of_pairs(const GramRows<T>& keys, const double* __restrict__ inv_norm,
                                                 Key* __restrict__ result) {
  constexpr int kWarps = Shape::kThreads / 32;
  const PairTile tile = pair_tile(blockIdx.x);
  stage_norms<Shape>(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  typename Shape::Panel dot[Shape::kPanels];
  gram<T, Shape>(keys, tile.row_first(), keys, tile.column_first(), dot);

  Key largest = 0;
  for_each_panel<Shape>(dot, [&](typename Shape::Panel& panel, PanelPlace place) {
    const CountedPairs<Shape> counted(tile, place, keys.count);
    largest = max(largest, counted.all() ? largest_of_thread<Key, true>(panel, counted, tile.row_first())
                                         : largest_of_thread<Key, false>(panel, counted, tile.row_first()));
  });
  largest = device::warp_max(largest);
  const device::Shared<Key> maxima = device::shared<Key>(kOwnOffset<Shape>, kWarps);
  if (device::lane_id() == 0) maxima[device::warp_id()] = largest;
  __syncthreads();
  if (device::warp_id() > 0) return;
  largest = device::lane_id() < kWarps ? Key(maxima[device::lane_id()]) : Key(0);
  largest = device::warp_max(largest);
  if (device::lane_id() == 0) atomicMax(result, largest);
}

// keys: [n, width]; largest_bits: zero before.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    max_distance_kernel(GramRows<T> keys, const double* __restrict__ inv_norm, unsigned* __restrict__ largest_bits) {
  largest_of_pairs<T, Shape>(keys, inv_norm, largest_bits);
}

// slot: zero before.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    farthest_pair_kernel(GramRows<T> keys, const double* __restrict__ inv_norm, GreedyKey* __restrict__ slot) {
  largest_of_pairs<T, Shape>(keys, inv_norm, slot);
}

}  // namespace pact
