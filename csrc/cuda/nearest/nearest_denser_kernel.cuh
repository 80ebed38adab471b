// The nearest outranking token of every token: Gram tiles of the upper triangle, over keys packed in rank order.
//
// In a pair i < j of ranks, i outranks j. So a tile reduces its pairs to a minimum per column, over (distance, token
// number), and sends each by one 64-bit atomic minimum; of n^2 pairs, nothing but that is written. The row of rank 0
// also gives its largest distance, as the maximum of integers. One launch of tiles, one of n threads that brings the
// answers to token order.
#pragma once

#include "../gram/gram_pairs.cuh"
#include "nearest_key.cuh"

namespace pact {

template <typename Shape>
constexpr unsigned kColumnNearestOffset = kOwnOffset<Shape> + kGramTile * sizeof(int);  // [column 128][panel row]
template <typename Shape>
constexpr unsigned kNearestDenserSharedBytes =
    kColumnNearestOffset<Shape> + kGramTile * Shape::kPanelsDown * sizeof(NearestKey);

template <typename Shape>
__device__ __forceinline__ device::Shared<int> row_tokens_of_tile() {
  return device::shared<int>(kOwnOffset<Shape>, kGramTile);
}
template <typename Shape>
__device__ __forceinline__ device::Shared<NearestKey> column_nearest_of_tile() {
  return device::shared<NearestKey>(kColumnNearestOffset<Shape>, kGramTile * Shape::kPanelsDown);
}

// The panel's minimum of each column, to shared memory; the largest distance of rank 0, to *farthest.
template <bool kAll, typename Shape>
__device__ __forceinline__ void nearest_of_columns(typename Shape::Panel& panel, const CountedPairs<Shape>& counted,
                                                   bool has_rank_0, unsigned* farthest) {
  const device::Shared<int> row_tokens = row_tokens_of_tile<Shape>();
  const device::Shared<NearestKey> column_nearest = column_nearest_of_tile<Shape>();
  const PanelPlace place = counted.place();
  NearestKey best[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) best[c] = kNoCenter;
  unsigned largest = 0;  // half distance of the thread's first row
  unsigned token = 0;    // of the row
  for_each_pair<kAll>(
      panel, counted,
      [&](int r, int c, float half, bool counts) {
        if (c == 0) token = static_cast<unsigned>(int(row_tokens[place.row(r)]));
        const unsigned bits = kAll ? __float_as_uint(half) : distance_bits(half), none = counts ? 0 : ~0u;
        best[c] = smaller(best[c], nearest_key(bits | none, token | none));
        if (r == 0) largest = max(largest, bits & ~none);
      },
      [](int) {});
  column_nearest[place.column(device::lane_id() / 4) * Shape::kPanelsDown + place.first_row / Shape::kPanelRows] =
      combine_columns(best, smaller);
  if (has_rank_0 && place.first_row == 0) {
    largest = __reduce_max_sync(device::kAllLanes, place.row(0) == 0 ? largest : 0u);
    if (device::lane_id() == 0) atomicMax(farthest, distance_bits(2 * __uint_as_float(largest)));
  }
}

// keys: [n, width] in rank order; order: [n]; nearest: [n], all ones before; farthest: zero before.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    nearest_denser_kernel(GramRows<T> keys, GramNorms inv_norm, const int* __restrict__ order,
                          NearestKey* __restrict__ nearest, unsigned* __restrict__ farthest) {
  const PairTile tile = pair_tile(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGramTile)
    row_tokens_of_tile<Shape>()[thread] = thread < keys.count - tile.row_first() ? order[tile.row_first() + thread] : 0;
  stage_norms<Shape>(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  typename Shape::Panel dot[Shape::kPanels];
  gram<T, Shape>(keys, tile.row_first(), keys, tile.column_first(), dot);

  for_each_panel<Shape>(dot, [&](typename Shape::Panel& panel, PanelPlace place) {
    const CountedPairs<Shape> counted(tile, place, keys.count);
    if (counted.all())
      nearest_of_columns<true>(panel, counted, tile.row == 0, farthest);
    else
      nearest_of_columns<false>(panel, counted, tile.row == 0, farthest);
  });
  __syncthreads();

  if (thread >= kGramTile || thread >= keys.count - tile.column_first()) return;
  const device::Shared<NearestKey> parts = column_nearest_of_tile<Shape>();
  NearestKey key = kNoCenter;
#pragma unroll
  for (int p = 0; p < Shape::kPanelsDown; ++p) key = smaller(key, parts[thread * Shape::kPanelsDown + p]);
  atomicMin(nearest + tile.column_first() + thread, doubled(key));
}

// From rank order to token order.
__global__ void __launch_bounds__(kGramThreads)
    nearest_denser_to_tokens_kernel(const NearestKey* __restrict__ nearest, const unsigned* __restrict__ farthest,
                                    const int* __restrict__ order, int n, float* __restrict__ distances,
                                    int64_t* __restrict__ indices) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int token = order[i];
  distances[token] = __uint_as_float(i == 0 ? *farthest : static_cast<unsigned>(nearest[i] >> 32));
  indices[token] = i == 0 ? -1 : static_cast<int64_t>(nearest[i] & 0xffffffff);
}

}  // namespace pact
