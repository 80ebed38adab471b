// The nearest centre of every token: a dense pass of tokens x centres, and single pairs.
#pragma once

#include "gram.h"

namespace pact::PACT_ISA {
namespace {

// A running minimum per lane. Within a lane positions only grow, so `<` keeps the first; lanes meet at the end.
struct LaneMinimum {
  vfloat distance;
  vint position;
};

inline Nearest first_minimum(const LaneMinimum& lanes) {
  Nearest best{lanes.distance[0], lanes.position[0]};
  for (int l = 1; l < kLanes; ++l) {
    const Nearest other{lanes.distance[l], lanes.position[l]};
    if (other.distance < best.distance || (other.distance == best.distance && other.position < best.position))
      best = other;
  }
  return best;
}

// Tokens: one tile of at most kPairTile.
void nearest(const Panels& tokens, const Panels& centers, Nearest* out) {
  constexpr int64_t kCentersInL2 = kPairTile;
  const float infinity = __builtin_inff();
  LaneMinimum best[kPairTile];
  for (LaneMinimum& b : best) b = {splat(infinity), vint{}};
  vint lane;
  for (int l = 0; l < kLanes; ++l) lane[l] = l;

  GramTile tile;
  for (int64_t begin = 0; begin < centers.n; begin += kCentersInL2) {
    const int64_t end = begin + kCentersInL2 < centers.n ? begin + kCentersInL2 : centers.n;
    for (int64_t i = 0; i < tokens.n; i += kTileRows) {
      for (int64_t j = begin; j < end; j += kPanel) {
        gram(tokens, i, centers, j, tile);
        to_distances(tokens, i, centers, j, tile);
        for (int r = 0; r < kTileRows; ++r) {
          for (int64_t c = centers.n - j; c < kPanel; ++c) tile.at[r][c] = infinity;  // padding
          for (int v = 0; v < kPanelVectors; ++v) {
            const vfloat d = load<vfloat>(tile.at[r] + v * kLanes);
            const vint nearer = d < best[i + r].distance;
            best[i + r].distance = nearer ? d : best[i + r].distance;
            best[i + r].position = nearer ? lane + int32_t(j + v * kLanes) : best[i + r].position;
          }
        }
      }
    }
  }
  for (int64_t i = 0; i < tokens.n; ++i) out[i] = first_minimum(best[i]);
}

void pair_distances(const float* row, double inv_norm, const float* const* others, const double* inv_norms,
                    int64_t count, int64_t dk, float* out) {
  constexpr int kChains = 8;  // independent sums hide the latency of the fma
  for (int64_t first = 0; first < count; first += kChains) {
    const float* other[kChains];
    for (int q = 0; q < kChains; ++q) other[q] = others[first + q < count ? first + q : first];
    float dot[kChains] = {};
    for (int64_t k0 = 0; k0 < dk; k0 += kSumBlock) {
      const int64_t k1 = k0 + kSumBlock < dk ? k0 + kSumBlock : dk;
      float sum[kChains] = {};
      for (int64_t k = k0; k < k1; ++k)
        for (int q = 0; q < kChains; ++q) sum[q] = fma(row[k], other[q][k], sum[q]);
      for (int q = 0; q < kChains; ++q) dot[q] += sum[q];
    }
    for (int q = 0; q < kChains && first + q < count; ++q) {
      const vfloat_half d = distance(dot[q] - vfloat_half{}, splat(inv_norm) * splat(inv_norms[first + q]));
      out[first + q] = d[0];
    }
  }
}

}  // namespace
}  // namespace pact::PACT_ISA
