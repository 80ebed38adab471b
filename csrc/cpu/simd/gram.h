// The Gram micro-kernel: dot products of kTileRows tokens with one panel of kPanel tokens.
//
//            panel: [dk][kPanel]
//            3 vectors wide
//   rows  +---------+   each cell one accumulator, one fma per term in ascending k, folded into the total every
//   8 or 4|  accs   |   kSumBlock terms: a dot product has the same bits wherever in a tile its pair falls, on AVX2
//         +---------+   and AVX-512 alike. 24 (12) accumulators hide the latency of the fma.
#pragma once

#include "simd.h"

namespace pact::PACT_ISA {
namespace {

constexpr int kPanelVectors = 3;
constexpr int kPanel = kPanelVectors * kLanes;
constexpr int64_t kSumBlock = 256;  // short sums round less: a tenth of the error of one long sum at dk = 4096
static_assert(kPairTile % kPanel == 0 && kPanel % kTileRows == 0 && kPanel <= 64);

struct GramTile {
  alignas(64) float at[kTileRows][kPanel];
};

inline const float* panel_of(const Panels& keys, int64_t token) {
  return keys.data + token / kPanel * kPanel * keys.dk;
}

// Dot products of tokens [i, i + kTileRows) of `left` with tokens [j, j + kPanel) of `right`.
inline void gram(const Panels& left, int64_t i, const Panels& right, int64_t j, GramTile& tile) {
  const float* a = panel_of(left, i) + i % kPanel;
  const float* b = panel_of(right, j);
  tile = {};
  for (int64_t k0 = 0; k0 < left.dk; k0 += kSumBlock) {
    const int64_t k1 = k0 + kSumBlock < left.dk ? k0 + kSumBlock : left.dk;
    vfloat acc[kTileRows][kPanelVectors] = {};
    for (int64_t k = k0; k < k1; ++k, a += kPanel, b += kPanel) {
      vfloat column[kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) column[v] = load<vfloat>(b + v * kLanes);
      for (int r = 0; r < kTileRows; ++r) {
        const vfloat row = splat(a[r]);
        for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = fma(row, column[v], acc[r][v]);
      }
    }
    for (int r = 0; r < kTileRows; ++r) {
      for (int v = 0; v < kPanelVectors; ++v) {
        float* cell = tile.at[r] + v * kLanes;
        store(cell, load<vfloat>(cell) + acc[r][v]);
      }
    }
  }
}

// Cosine distance from a dot product. In double until the cosine is rounded once to float: so the distance is
// symmetric, exactly 0 for equal vectors and exactly 2 for opposite ones.
inline vfloat_half distance(vfloat_half dot, vdouble inv_norms) {
  const vfloat_half d = 1.0f - narrow(widen(dot) * inv_norms);
  const vfloat_half zero{}, two = zero + 2.0f;
  return d < zero ? zero : (d > two ? two : d);
}

inline void to_distances(const Panels& left, int64_t i, const Panels& right, int64_t j, GramTile& tile) {
  for (int r = 0; r < kTileRows; ++r) {
    const vdouble row = splat(left.inv_norm[i + r]);
    for (int c = 0; c < kPanel; c += kHalf) {
      float* cell = tile.at[r] + c;
      store(cell, distance(load<vfloat_half>(cell), row * load<vdouble>(right.inv_norm + j + c)));
    }
  }
}

}  // namespace
}  // namespace pact::PACT_ISA
