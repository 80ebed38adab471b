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

// The thread's pairs of a panel that count: i < j < n.
template <typename Shape>
class CountedPairs {
 public:
  __device__ __forceinline__ CountedPairs(PairTile tile, PanelPlace place, int n)
      : place_(place),
        ahead_(tile.column_first() + place.column(0) - tile.row_first() - place.row(0)),
        columns_(n - tile.column_first() - place.column(0)) {}
  __device__ __forceinline__ bool operator()(int r, int c) const { return r * 8 < ahead_ + c && c < columns_; }
  // Whether all the panel's pairs count, and none has a distance of NaN.
  __device__ __forceinline__ bool all() const {
    return is_regular<Shape>(place_, (Shape::Panel::kRows - 1) * 8 < ahead_);
  }
  __device__ __forceinline__ PanelPlace place() const { return place_; }

 private:
  PanelPlace place_;
  int ahead_;    // how far the thread's first column is ahead of its first row
  int columns_;  // tokens from its first column to the last
};

// Calls f(r, c, half distance, counts) for the thread's part of the panel, `counts` being true at compile time when
// kAll says that all the panel's pairs count; and row_done(r) after the last of row r.
template <bool kAll, typename Shape, typename F, typename RowDone>
__device__ __forceinline__ void for_each_pair(typename Shape::Panel& panel, const CountedPairs<Shape>& counted,
                                              const F& f, const RowDone& row_done) {
  for_each_cosine<Shape>(
      panel, counted.place(),
      [&](int r, int c, float cosine) {
        if constexpr (kAll)
          f(r, c, half_distance(cosine), true);
        else
          f(r, c, half_distance_or_nan(cosine), counted(r, c));
      },
      row_done);
}

}  // namespace pact
