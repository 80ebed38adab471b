// The nearest centre of every token: Gram tiles of 128 tokens x 128 centres, a block each.
//
//   centres   0 .. 127 | 128 .. 255 | ...   A block reduces (distance bits << 32 | position) to a minimum per token,
//   then tokens    block 0    block T            one 64-bit atomic minimum per token: integers, so ties and order are
//   decided.
//             block 1    block T + 1        The count of centres is read on the device; blocks beyond it leave at once.
#pragma once

#include "gram.cuh"
#include "nearest_key.cuh"

namespace pact {

constexpr unsigned kCenterTokensOffset = kNormsOffset + kNormsBytes;
constexpr unsigned kNearestOffset = kCenterTokensOffset + kGramTile * sizeof(int);  // [token 128][warp column 4]
constexpr unsigned kNearestSharedBytes = kNearestOffset + kGramTile * 4 * sizeof(NearestKey);

// tokens: [n, width]; token_index: [n] or null for 0..n-1; token_count: device or null for n; centers: [capacity,
// width]; center_token: [capacity], < 0 for no centre; count: device or null for capacity; nearest: [n], kNoCenter
// before.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, gram_blocks_per_sm(kFold))
    nearest_kernel(GramRows<T> tokens, const double* __restrict__ token_inv_norm, const int* __restrict__ token_index,
                   const int* __restrict__ token_count, GramRows<T> centers, const double* __restrict__ center_inv_norm,
                   const int* __restrict__ center_token, const int* __restrict__ count, unsigned token_tiles,
                   NearestKey* __restrict__ nearest) {
  const int first = static_cast<int>(blockIdx.x % token_tiles) * kGramTile;
  const int center_first = static_cast<int>(blockIdx.x / token_tiles) * kGramTile;
  if (count) centers.count = max(0, min(centers.count, *count));
  if (token_count) tokens.count = max(0, min(tokens.count, *token_count));
  if (center_first >= centers.count || first >= tokens.count) return;

  const device::Shared<int> center_tokens = device::shared<int>(kCenterTokensOffset, kGramTile);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGramTile) {
    center_tokens[thread] = thread < centers.count - center_first ? center_token[center_first + thread] : -1;
  }
  stage_norms(token_inv_norm, first, tokens.count, center_inv_norm, center_first, centers.count);
  GramTile dot;
  gram<T, kFold>(tokens, first, centers, center_first, dot);

  const device::Shared<NearestKey> block_nearest = device::shared<NearestKey>(kNearestOffset, kGramTile * 4);
  int column_token[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) column_token[c] = center_tokens[gram_column(c)];
  NearestKey best[4] = {};
  int number = 0;  // of the row's token
  for_each_distance(
      dot,
      [&](int r, int c, float distance) {
        if (c == 0) {
          const int64_t token = int64_t{first} + gram_row(r);
          number = token_index && token < tokens.count ? token_index[token] : static_cast<int>(token);
          best[r % 4] = kNoCenter;
        }
        if (column_token[c] < 0) return;
        const unsigned bits = number == column_token[c] ? 0 : distance_bits(distance);
        const unsigned position = static_cast<unsigned>(center_first + gram_column(c));
        best[r % 4] = smaller(best[r % 4], nearest_key(bits, position));
      },
      [&](int r) {
        if (r % 4 != 3) return;
        const int row = gram_row(r - 3 + device::lane_id() % 4);
        block_nearest[row * 4 + warp_column() / 32] = combine_rows(best, smaller);
      });
  __syncthreads();

  if (thread >= kGramTile || thread >= tokens.count - first) return;
  NearestKey key = kNoCenter;
#pragma unroll
  for (int w = 0; w < 4; ++w) key = smaller(key, block_nearest[thread * 4 + w]);
  atomicMin(nearest + first + thread, key);
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
