// All pairs i < j of one set of tokens: the upper triangle of Gram tiles, a block each.
//
//        tj 0 1 2        Blocks go down the columns: 0; 1 2; 3 4 5; ... The blocks that run together read few tiles
//   ti 0    0 1 3        of keys between them, whatever the number of tokens.
//      1      2 4
//      2        5
#pragma once

#include "gram_distance.cuh"

namespace pact {

struct PairTile {
  int row, column;  // ti <= tj
  __device__ __forceinline__ int row_first() const { return row * kGramTile; }
  __device__ __forceinline__ int column_first() const { return column * kGramTile; }
};

constexpr int64_t pair_tiles(int n) { return static_cast<int64_t>(gram_tiles(n)) * (gram_tiles(n) + 1) / 2; }

__device__ __forceinline__ PairTile pair_tile(unsigned block) {
  const auto before = [](int64_t column) { return column * (column + 1) / 2; };  // tiles of the columns before
  int64_t column = static_cast<int64_t>((sqrtf(8.0f * static_cast<float>(block) + 1.0f) - 1.0f) / 2.0f);
  while (before(column) > block) --column;
  while (before(column + 1) <= block) ++column;
  return {static_cast<int>(block - before(column)), static_cast<int>(column)};
}

// The thread's pairs that count: i < j < n.
class CountedPairs {
 public:
  __device__ __forceinline__ CountedPairs(PairTile tile, int n)
      : ahead_(tile.column_first() + gram_column(0) - tile.row_first() - gram_row(0)),
        columns_(n - tile.column_first() - gram_column(0)) {}
  __device__ __forceinline__ bool operator()(int r, int c) const {
    return gram_row(r) - gram_row(0) < ahead_ + c && c < columns_;
  }
  // Whether all the warp's pairs count, and none has a distance of NaN.
  __device__ __forceinline__ bool whole_warp() const {
    return warp_is_regular(gram_row(kRows - 1) - gram_row(0) < ahead_);
  }

 private:
  int ahead_;    // how far the thread's first column is ahead of its first row
  int columns_;  // tokens from its first column to the last
};

// Calls f(r, c, half distance, counts) for the thread's part of the tile, `counts` being true at compile time when
// kWhole says that all the warp's pairs count; and row_done(r) after the last of row r.
template <bool kWhole, typename F, typename RowDone>
__device__ __forceinline__ void for_each_pair(GramTile& tile, const CountedPairs& counted, const F& f,
                                              const RowDone& row_done) {
  for_each_cosine(
      tile,
      [&](int r, int c, float cosine) {
        if constexpr (kWhole)
          f(r, c, half_distance(cosine), true);
        else
          f(r, c, half_distance_or_nan(cosine), counted(r, c));
      },
      row_done);
}

}  // namespace pact
