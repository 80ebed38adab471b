// All pairs i < j of one set of tokens: the upper triangle of Gram tiles, a block each.
//
//        tj 0 1 2        Blocks go down the columns: 0; 1 2; 3 4 5; ... The blocks that run together read few tiles
//   ti 0    0 1 3        of keys between them, whatever the number of tokens.
//      1      2 4
//      2        5
#pragma once

#include "gram.cuh"

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

// The thread's pairs to count, i < j < n, bit r * 8 + c each.
__device__ __forceinline__ uint64_t pairs_to_count(PairTile tile, int n) {
  const int rows = n - tile.row_first(), columns = n - tile.column_first(), shift = rows - columns;
  if (shift != 0 && columns >= kGramTile) return ~uint64_t{0};
  uint64_t bits = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int i = gram_row(r), j = gram_column(c);
      bits |= static_cast<uint64_t>(i < j + shift && j < columns) << (r * kColumns + c);
    }
  return bits;
}

}  // namespace pact
