// The bits of a Gram tile's pairs, from the threads that hold them to rows of adjacency and of its transpose.
#pragma once

#include "../gram/gram_pairs.cuh"

namespace pact {

// The words of the tile's rows in shared memory, [row 128][word 4].
constexpr int kWordsPerTile = kGramTile / 32;
constexpr unsigned kWordsBytes = kGramTile * kWordsPerTile * sizeof(uint32_t);
template <typename Shape>
__device__ __forceinline__ device::Shared<uint32_t> tile_words() {
  return device::shared<uint32_t>(kOwnOffset<Shape>, kGramTile * kWordsPerTile);
}

// Up to four rows of the thread's grid: bit 8 r + c says that pair (r, c) is far. Pairs come in ascending order.
class FarBits {
 public:
  // One pair, by the sign of the difference.
  __device__ __forceinline__ void add(float cutoff_minus_distance) {
    bits_ = __funnelshift_l(__float_as_uint(cutoff_minus_distance), bits_, 1);
  }
  template <int kRows>
  __device__ __forceinline__ uint32_t near_rows() const {
    return ~__brev(bits_) >> (32 - 8 * kRows);
  }

 private:
  uint32_t bits_ = 0;
};

// A byte for each of four rows, held by each of the four lanes of their columns: the 32 columns of row lane % 4.
__device__ __forceinline__ uint32_t row_word(uint32_t bytes) {
  const unsigned lane = threadIdx.x;
  uint32_t other = __shfl_xor_sync(device::kAllLanes, bytes, 2);
  bytes = __byte_perm(bytes, other, lane & 2 ? 0x3276 : 0x5410);
  other = __shfl_xor_sync(device::kAllLanes, bytes, 1);
  return __byte_perm(bytes, other, lane & 1 ? 0x3715 : 0x6240);
}

// A word per lane: bit i of lane l goes to bit l of lane i.
__device__ __forceinline__ uint32_t transpose(uint32_t word) {
  const unsigned lane = threadIdx.x;
  uint32_t other = __shfl_xor_sync(device::kAllLanes, word, 16);
  word = __byte_perm(word, other, lane & 16 ? 0x3276 : 0x5410);
  other = __shfl_xor_sync(device::kAllLanes, word, 8);
  word = __byte_perm(word, other, lane & 8 ? 0x3715 : 0x6240);
#pragma unroll
  for (int step = 4; step > 0; step /= 2) {
    const uint32_t low = step == 4 ? 0x0f0f0f0fu : (step == 2 ? 0x33333333u : 0x55555555u);
    const bool upper = lane & static_cast<unsigned>(step);
    const uint32_t kept = upper ? ~low : low;
    other = __shfl_xor_sync(device::kAllLanes, word, step);
    other = __funnelshift_l(other, other, upper ? 32 - step : step);
    word = (word & kept) | (other & ~kept);
  }
  return word;
}

// Row i of the tile, or with `mirror` of its transpose, by a warp that has 32 of them. On the diagonal they are one,
// and a token is near itself.
template <typename Shape>
__device__ __forceinline__ void store_row(int i, bool mirror, PairTile tile, int n, uint32_t* adjacency, int words) {
  const device::Shared<uint32_t> from = tile_words<Shape>();
  const bool diagonal = tile.row == tile.column;
  uint32_t row[kWordsPerTile] = {};
  if (mirror || diagonal) {
#pragma unroll
    for (int w = 0; w < kWordsPerTile; ++w)
      row[w] = transpose(from[(w * 32 + device::lane_id()) * kWordsPerTile + i / 32]);
  }
  if (!mirror) {
    const bool self = diagonal && i < n - tile.row_first();
#pragma unroll
    for (int w = 0; w < kWordsPerTile; ++w)
      row[w] |= uint32_t(from[i * kWordsPerTile + w]) | static_cast<uint32_t>(self && w == i / 32) << i % 32;
  }
  const int64_t token = static_cast<int64_t>(mirror ? tile.column : tile.row) * kGramTile + i;
  const int64_t word = static_cast<int64_t>(mirror ? tile.row : tile.column) * kWordsPerTile;
  *reinterpret_cast<uint4*>(adjacency + token * words + word) = make_uint4(row[0], row[1], row[2], row[3]);
}

// The rows of the tile and of its transpose.
template <typename Shape>
__device__ __forceinline__ void store_bits(PairTile tile, int n, uint32_t* adjacency, int words) {
#pragma unroll
  for (int turn = 0; turn < 2 * kGramTile / Shape::kThreads; ++turn) {
    const int i = turn * Shape::kThreads + static_cast<int>(threadIdx.x);
    if (i < kGramTile || tile.row != tile.column)
      store_row<Shape>(i % kGramTile, i >= kGramTile, tile, n, adjacency, words);
  }
}

}  // namespace pact
