// The nearest centre of every token: Gram tiles of 128 tokens x 128 centres, a block each.
//
//   centres   0 .. 127 | 128 .. 255 | ...   A block reduces (distance bits << 32 | position) to a minimum per token,
//   then tokens    block 0    block T            one 64-bit atomic minimum per token: integers, so ties and order are
//   decided.
//             block 1    block T + 1        The count of centres is read on the device; blocks beyond it leave at once.
#pragma once

#include "../gram/gram_distance.cuh"
#include "nearest_key.cuh"

namespace pact {

template <typename Shape>
constexpr unsigned kNearestOffset = kOwnOffset<Shape> + kGramTile * sizeof(int);  // [token 128][panel]
template <typename Shape>
constexpr unsigned kNearestSharedBytes = kNearestOffset<Shape> + kGramTile * kPanelsAcross * sizeof(NearestKey);

template <typename Shape>
__device__ __forceinline__ device::Shared<int> center_tokens_of_tile() {
  return device::shared<int>(kOwnOffset<Shape>, kGramTile);
}

// What is needed beside the products to tell its centres' and tokens' numbers apart.
struct NearestNumbers {
  const int* token_index;  // or null for 0..n-1
  int first, token_count, center_first;
};

// The nearest centre of each of the panel's rows, to shared memory. kAll: all its rows and columns are there and
// regular, so that a token's distance to itself comes out as 0.
template <bool kAll, typename Shape>
__device__ __forceinline__ void nearest_of_panel(typename Shape::Panel& panel, PanelPlace place,
                                                 const NearestNumbers& numbers) {
  constexpr int kAtOnce = kRowsAtOnce<typename Shape::Panel>;
  const device::Shared<int> center_tokens = center_tokens_of_tile<Shape>();
  const device::Shared<NearestKey> parts = device::shared<NearestKey>(kNearestOffset<Shape>, kGramTile * kPanelsAcross);
  NearestKey best[kAtOnce];
  unsigned nearest = 0;
  int column = -1, token = 0;
  for_each_cosine<Shape>(
      panel, place,
      [&](int r, int c, float cosine) {
        if (c == 0) {
          nearest = ~0u;
          column = -1;
          if constexpr (!kAll) {
            token = numbers.first + place.row(r);
            if (numbers.token_index && token < numbers.token_count) token = numbers.token_index[token];
          }
        }
        unsigned bits;
        if constexpr (kAll) {
          bits = __float_as_uint(half_distance(cosine));
        } else {
          const int center = center_tokens[place.column(c)];
          bits = distance_bits(half_distance_or_nan(cosine)) & (center == token ? 0 : ~0u);
          bits |= center < 0 ? ~0u : 0;
        }
        const bool nearer = (kAll && c == 0) || bits < nearest;
        nearest = nearer ? bits : nearest;
        column = nearer ? c : column;
      },
      [&](int r) {
        const unsigned position = static_cast<unsigned>(numbers.center_first + place.column(column));
        best[r % kAtOnce] = !kAll && column < 0 ? kNoCenter : nearest_key(nearest, position);
        if (r % kAtOnce != kAtOnce - 1) return;
        const NearestKey key = combine_rows(best, smaller);
        const OwnRow<typename Shape::Panel> own(place, r);
        if (own) parts[own.row * kPanelsAcross + place.word()] = key;
      });
}

// tokens: [n, width]; token_index: [n] or null for 0..n-1; token_count: device or null for n; centers: [capacity,
// width]; center_token: [capacity], < 0 for no centre; count: device or null for capacity; nearest: [n], kNoCenter
// before.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    nearest_kernel(GramRows<T> tokens, GramNorms token_inv_norm, const int* __restrict__ token_index,
                   const int* __restrict__ token_count, GramRows<T> centers, GramNorms center_inv_norm,
                   const int* __restrict__ center_token, const int* __restrict__ count, unsigned token_tiles,
                   NearestKey* __restrict__ nearest) {
  const int first = static_cast<int>(blockIdx.x % token_tiles) * kGramTile;
  const int center_first = static_cast<int>(blockIdx.x / token_tiles) * kGramTile;
  if (count) centers.count = max(0, min(centers.count, *count));
  if (token_count) tokens.count = max(0, min(tokens.count, *token_count));
  if (center_first >= centers.count || first >= tokens.count) return;

  const int thread = static_cast<int>(threadIdx.x);
  stage_norms<Shape>(token_inv_norm, first, tokens.count, center_inv_norm, center_first, centers.count);
  if (thread >= Shape::kThreads - kGramTile) {  // who staged the norms of column t, in the last turn
    const int column = thread - (Shape::kThreads - kGramTile);
    const int token = column < centers.count - center_first ? center_token[center_first + column] : -1;
    center_tokens_of_tile<Shape>()[column] = token;
    if (token < 0) tile_norms<Shape>()[kGramTile + column] = make_float2(0, 0);  // no regular column
  }
  typename Shape::Panel dot[Shape::kPanels];
  gram<T, Shape>(tokens, first, centers, center_first, dot);

  const NearestNumbers numbers{token_index, first, tokens.count, center_first};
  for_each_panel<Shape>(dot, [&](typename Shape::Panel& panel, PanelPlace place) {
    if (is_regular<Shape>(place))
      nearest_of_panel<true, Shape>(panel, place, numbers);
    else
      nearest_of_panel<false, Shape>(panel, place, numbers);
  });
  __syncthreads();

  if (thread >= kGramTile || thread >= tokens.count - first) return;
  const device::Shared<NearestKey> parts = device::shared<NearestKey>(kNearestOffset<Shape>, kGramTile * kPanelsAcross);
  NearestKey key = kNoCenter;
#pragma unroll
  for (int p = 0; p < kPanelsAcross; ++p) key = smaller(key, parts[thread * kPanelsAcross + p]);
  atomicMin(nearest + first + thread, doubled(key));
}

// labels[to] = position when the distance is below the limit, else -1, for to = scatter ? scatter[i] : i.
__global__ void __launch_bounds__(kGramThreads)
    nearest_to_labels_kernel(const NearestKey* __restrict__ nearest, int n, const int* __restrict__ count, float limit,
                             const int* __restrict__ scatter, int64_t* __restrict__ labels,
                             float* __restrict__ distances) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n || (count && i >= *count)) return;
  const NearestKey key = nearest[i];
  const float distance =
      key == kNoCenter ? __uint_as_float(0x7f800000) : __uint_as_float(static_cast<unsigned>(key >> 32));
  const int64_t to = scatter ? scatter[i] : i;
  labels[to] = distance < limit ? static_cast<int64_t>(key & 0xffffffff) : -1;
  if (distances) distances[to] = distance;
}

}  // namespace pact
