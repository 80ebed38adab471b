// The nearest outranking token of every token: Gram tiles of the upper triangle, over keys packed in rank order.
//
// In a pair i < j of ranks, i outranks j. So a tile reduces its pairs to a minimum per column, over (distance, token
// number), and sends each by one 64-bit atomic minimum; of n^2 pairs, nothing but that is written. The row of rank 0
// also gives its largest distance, as the maximum of integers. One launch of tiles, one of n threads that brings the
// answers to token order.
#pragma once

#include "gram_pairs.cuh"
#include "nearest_key.cuh"

namespace pact {

constexpr unsigned kRowTokensOffset = kNormsOffset + kNormsBytes;
constexpr unsigned kColumnNearestOffset = kRowTokensOffset + kGramTile * sizeof(int);  // [column 128][panel row]
constexpr unsigned kNearestDenserSharedBytes = kColumnNearestOffset + kGramTile * kPanelsDown * sizeof(NearestKey);

// The panel's minimum of each column, to shared memory; the largest distance of rank 0, to *farthest.
template <bool kAll>
__device__ __forceinline__ void nearest_of_columns(GramTile& panel, const CountedPairs& counted, bool has_rank_0,
                                                   unsigned* farthest) {
  const device::Shared<int> row_tokens = device::shared<int>(kRowTokensOffset, kGramTile);
  const device::Shared<NearestKey> column_nearest =
      device::shared<NearestKey>(kColumnNearestOffset, kGramTile * kPanelsDown);
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
  column_nearest[place.column(device::lane_id() / 4) * kPanelsDown + place.first_row / kPanelRows] =
      combine_columns(best, smaller);
  if (has_rank_0 && place.first_row == 0) {
    largest = __reduce_max_sync(device::kAllLanes, place.row(0) == 0 ? largest : 0u);
    if (device::lane_id() == 0) atomicMax(farthest, distance_bits(2 * __uint_as_float(largest)));
  }
}

// keys: [n, width] in rank order; order: [n]; nearest: [n], all ones before; farthest: zero before.
template <typename T, bool kFold>
__global__ void __launch_bounds__(ShapeFor<kFold>::kThreads, gram_blocks_per_sm(kFold))
    nearest_denser_kernel(GramRows<T> keys, GramNorms inv_norm, const int* __restrict__ order,
                          NearestKey* __restrict__ nearest, unsigned* __restrict__ farthest) {
  using Shape = ShapeFor<kFold>;
  const PairTile tile = pair_tile(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGramTile)
    device::shared<int>(kRowTokensOffset, kGramTile)[thread] =
        thread < keys.count - tile.row_first() ? order[tile.row_first() + thread] : 0;
  stage_norms<Shape>(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  GramTile dot[Shape::kPanels];
  gram<T, kFold, Shape>(keys, tile.row_first(), keys, tile.column_first(), dot);

  for_each_panel<Shape>(dot, [&](GramTile& panel, PanelPlace place) {
    const CountedPairs counted(tile, place, keys.count);
    if (counted.all())
      nearest_of_columns<true>(panel, counted, tile.row == 0, farthest);
    else
      nearest_of_columns<false>(panel, counted, tile.row == 0, farthest);
  });
  __syncthreads();

  if (thread >= kGramTile || thread >= keys.count - tile.column_first()) return;
  const device::Shared<NearestKey> parts = device::shared<NearestKey>(kColumnNearestOffset, kGramTile * kPanelsDown);
  NearestKey key = kNoCenter;
#pragma unroll
  for (int p = 0; p < kPanelsDown; ++p) key = smaller(key, parts[thread * kPanelsDown + p]);
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
