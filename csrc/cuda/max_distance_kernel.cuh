// The largest pairwise distance: Gram tiles of the upper triangle, a maximum per block, one atomic each.
//
// Distances are not negative, so their bits order as they do, with NaN above all: the maximum is one of unsigned
// integers.
#pragma once

#include "gram_pairs.cuh"
#include "nearest_key.cuh"

namespace pact {

constexpr unsigned kWarpMaximaOffset = kNormsOffset + kNormsBytes;
constexpr unsigned kMaxDistanceSharedBytes = kWarpMaximaOffset + kGramThreads / 32 * 4;

// keys: [n, width]; largest_bits: zero before.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, gram_blocks_per_sm(kFold))
    max_distance_kernel(GramRows<T> keys, const double* __restrict__ inv_norm, unsigned* __restrict__ largest_bits) {
  const PairTile tile = pair_tile(blockIdx.x);
  stage_norms(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  GramTile dot;
  gram<T, kFold>(keys, tile.row_first(), keys, tile.column_first(), dot);

  const uint64_t counted = pairs_to_count(tile, keys.count);
  unsigned largest = 0;
  for_each_distance(
      dot,
      [&](int r, int c, float distance) {
        if (counted >> (r * kColumns + c) & 1) largest = max(largest, distance_bits(distance));
      },
      [](int) {});
  largest = __reduce_max_sync(device::kAllLanes, largest);
  const device::Shared<unsigned> maxima = device::shared<unsigned>(kWarpMaximaOffset, kGramThreads / 32);
  if (device::lane_id() == 0) maxima[device::warp_id()] = largest;
  __syncthreads();
  if (device::warp_id() > 0) return;
  largest = device::lane_id() < kGramThreads / 32 ? unsigned(maxima[device::lane_id()]) : 0u;
  largest = __reduce_max_sync(device::kAllLanes, largest);
  if (device::lane_id() == 0) atomicMax(largest_bits, largest);
}

}  // namespace pact
