// Passes over the pairs i < j of one set of tokens, a tile of kPairTile x kPairTile at a time: density and adjacency,
// the largest distance, the nearest token before each. Distances live in one micro-tile only; what leaves it is sums,
// bits, a maximum or minima.
#pragma once

#include "gram.h"

namespace pact::PACT_ISA {
namespace {

// Calls f(i, j, tile) with the distances of tokens [i, i + kTileRows) x [j, j + kPanel), for every micro-tile of
// tile (ti, tj) that holds a pair i < j.
template <typename F>
inline void for_each_pair_tile(const Panels& keys, int64_t ti, int64_t tj, const F& f) {
  const int64_t row_end = keys.n < (ti + 1) * kPairTile ? keys.n : (ti + 1) * kPairTile;
  const int64_t column_end = keys.n < (tj + 1) * kPairTile ? keys.n : (tj + 1) * kPairTile;
  GramTile tile;
  for (int64_t i = ti * kPairTile; i < row_end; i += kTileRows) {
    for (int64_t j = tj * kPairTile; j < column_end; j += kPanel) {
      if (j + kPanel <= i) continue;
      gram(keys, i, keys, j, tile);
      to_distances(keys, i, keys, j, tile);
      f(i, j, tile);
    }
  }
}

// Which columns c of a micro-tile row are pairs to count: i < j + c < n, as bits.
inline uint64_t pair_mask(int64_t i, int64_t j, int64_t n) {
  if (i >= n) return 0;
  const int64_t begin = i + 1 > j ? i + 1 - j : 0;
  const int64_t end = n - j < kPanel ? n - j : kPanel;
  if (begin >= end) return 0;
  return ~uint64_t{0} >> (64 - (end - begin)) << begin;
}

constexpr uint64_t kWholePanel = ~uint64_t{0} >> (64 - kPanel);

inline uint64_t within(const float* row, float cutoff) {
  uint64_t mask = 0;
  for (int v = 0; v < kPanelVectors; ++v)
    mask |= uint64_t{mask_le(load<vfloat>(row + v * kLanes), splat(cutoff))} << v * kLanes;
  return mask;
}

// In place, the block of 64 rows of 64 bits becomes its transpose: swap halves, quarters, and so on.
inline void transpose_bits(uint64_t rows[64]) {
  uint64_t low = 0x00000000ffffffff;
  for (int step = 32; step; step >>= 1, low ^= low << step) {
    for (int r = 0; r < 64; r = (r + step + 1) & ~step) {
      const uint64_t swapped = (rows[r] >> step ^ rows[r + step]) & low;
      rows[r] ^= swapped << step;
      rows[r + step] ^= swapped;
    }
  }
}

// Writes a tile's bits to its rows of the adjacency, and their transpose to the mirror tile. On the diagonal the two
// meet in one tile, where a token is also its own neighbour.
inline void store_adjacency(const PairPass& pass, int64_t ti, int64_t tj, uint64_t bits[kPairTile][kTileWords]) {
  uint64_t* upper = pass.adjacency + ti * kPairTile * pass.words + tj * kTileWords;
  uint64_t* lower = pass.adjacency + tj * kPairTile * pass.words + ti * kTileWords;
  for (int64_t i = 0; i < kPairTile; ++i)
    for (int64_t w = 0; w < kTileWords; ++w) upper[i * pass.words + w] = bits[i][w];
  for (int64_t w = 0; w < kTileWords; ++w) {
    for (int64_t v = 0; v < kTileWords; ++v) {
      uint64_t block[64];
      for (int i = 0; i < 64; ++i) block[i] = bits[v * 64 + i][w];
      transpose_bits(block);
      for (int i = 0; i < 64; ++i) {
        uint64_t& word = lower[(w * 64 + i) * pass.words + v];
        const uint64_t self = v == w ? uint64_t{1} << i : 0;
        word = ti == tj ? word | block[i] | self : block[i];
      }
    }
  }
}

inline void add_density(const PairPass& pass, int64_t first, const double* sums) {
  const int64_t count = pass.keys.n - first < kPairTile ? pass.keys.n - first : kPairTile;
  for (int64_t i = 0; i < count; ++i)
    __atomic_fetch_add(pass.density + first + i, int64_t(sums[i] / kDensityUnit), __ATOMIC_RELAXED);
}

// From distances to density terms, in place; columns outside `counted` become 0.
inline void to_density_terms(const PairPass& pass, uint64_t counted, float* row) {
  for (int v = 0; v < kPanelVectors; ++v) {
    vfloat x = load<vfloat>(row + v * kLanes) * pass.exponent;
    if (pass.gaussian) x = -(x * x);
    store(row + v * kLanes, exp_nonpositive(x));
  }
  if (counted != kWholePanel)
    for (int c = 0; c < kPanel; ++c)
      if (!(counted >> c & 1)) row[c] = 0;
}

void density_tile(const PairPass& pass, int64_t ti, int64_t tj) {
  // Multiples of kDensityUnit far below 2^21, whose sums a double holds exactly.
  alignas(64) double row_sum[kPairTile] = {}, column_sum[kPairTile] = {};
  uint64_t bits[kPairTile][kTileWords] = {};
  const vdouble round = splat(1.5 * 0x1p52 * kDensityUnit);  // adding it rounds to a multiple of kDensityUnit

  for_each_pair_tile(pass.keys, ti, tj, [&](int64_t i, int64_t j, GramTile& tile) {
    const int64_t row = i - ti * kPairTile, column = j - tj * kPairTile;
    for (int r = 0; r < kTileRows; ++r) {
      const uint64_t counted = pair_mask(i + r, j, pass.keys.n);
      if (pass.adjacency) {
        const uint64_t near = within(tile.at[r], pass.cutoff) & counted;
        const int shift = column % 64;
        uint64_t* word = bits[row + r] + column / 64;
        word[0] |= near << shift;
        if (shift + kPanel > 64) word[1] |= near >> (64 - shift);
      }
      to_density_terms(pass, counted, tile.at[r]);
    }
    vdouble row_total[kTileRows] = {};
    for (int c = 0; c < kPanel; c += kHalf) {
      vdouble column_total = load<vdouble>(column_sum + column + c);
      for (int r = 0; r < kTileRows; ++r) {
        const vdouble term = widen(load<vfloat_half>(tile.at[r] + c)) + round - round;
        row_total[r] += term;
        column_total += term;
      }
      store(column_sum + column + c, column_total);
    }
    for (int r = 0; r < kTileRows; ++r) row_sum[row + r] += sum(row_total[r]);
  });

  add_density(pass, ti * kPairTile, row_sum);
  add_density(pass, tj * kPairTile, column_sum);
  if (pass.adjacency) store_adjacency(pass, ti, tj, bits);
}

Largest max_distance_tile(const Panels& keys, int64_t ti, int64_t tj) {
  Largest largest{0, 0};
  for_each_pair_tile(keys, ti, tj, [&](int64_t i, int64_t j, GramTile& tile) {
    for (int r = 0; r < kTileRows; ++r) {
      const uint64_t counted = pair_mask(i + r, j, keys.n);
      if (counted != kWholePanel)
        for (int c = 0; c < kPanel; ++c)
          if (!(counted >> c & 1)) tile.at[r][c] = 0;
      if (within(tile.at[r], float(largest.value)) == kWholePanel) continue;
      for (int c = 0; c < kPanel; ++c)
        if (tile.at[r][c] > largest.value) largest = {tile.at[r][c], i + r};
    }
  });
  return largest;
}

// Non-negative floats order as their bits, so one integer orders by distance, then by token.
inline void offer(uint64_t* nearest, float distance, int32_t token) {
  const uint64_t key = uint64_t{to_bits(distance)} << 32 | uint32_t(token);
  uint64_t held = __atomic_load_n(nearest, __ATOMIC_RELAXED);
  while (key < held && !__atomic_compare_exchange_n(nearest, &held, key, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

void nearest_before_tile(const BeforePass& pass, int64_t ti, int64_t tj) {
  const float infinity = __builtin_inff();
  alignas(64) float distance[kPairTile];  // of each column, the smallest so far and whose it is
  alignas(64) int32_t token[kPairTile];
  for (int64_t j = 0; j < kPairTile; ++j) {
    distance[j] = infinity;
    token[j] = INT32_MAX;
  }
  float farthest = 0;
  for_each_pair_tile(pass.keys, ti, tj, [&](int64_t i, int64_t j, GramTile& tile) {
    if (i == 0)
      for (int64_t c = j == 0; c < kPanel && j + c < pass.keys.n; ++c)
        farthest = tile.at[0][c] > farthest ? tile.at[0][c] : farthest;
    for (int r = 0; r < kTileRows; ++r)
      for (int64_t c = 0; c < kPanel && j + c <= i + r; ++c) tile.at[r][c] = infinity;  // not before the column
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t column = j - tj * kPairTile + v * kLanes;
      vfloat best = load<vfloat>(distance + column);
      vint whose = load<vint>(token + column);
      for (int r = 0; r < kTileRows; ++r) {
        const vfloat d = load<vfloat>(tile.at[r] + v * kLanes);
        const vint row = pass.token[i + r] - vint{};
        const vint better = (d < best) | ((d == best) & (row < whose));
        best = better ? d : best;
        whose = better ? row : whose;
      }
      store(distance + column, best);
      store(token + column, whose);
    }
  });
  if (ti == 0) pass.farthest[tj] = farthest;
  const int64_t first = tj * kPairTile;
  for (int64_t j = 0; j < kPairTile && first + j < pass.keys.n; ++j)
    offer(pass.nearest + first + j, distance[j], token[j]);
}

}  // namespace
}  // namespace pact::PACT_ISA
