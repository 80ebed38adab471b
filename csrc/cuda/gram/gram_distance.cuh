// Cosine distances from the dot products of a Gram tile.
//
// Kernels ask for half distances: a multiply-add that saturates to [0, 1] gives them in one instruction, and a factor
// of two changes no comparison and rounds nothing.
#pragma once

#include "gram.cuh"

namespace pact {

// 1 / ||row|| = x * (1 + y), to about 46 bits; 0 and NaN as (0, 0) and (NaN, NaN).
__device__ __forceinline__ float2 split_norm(double inv_norm) {
  const float high = static_cast<float>(inv_norm), low = static_cast<float>(inv_norm - static_cast<double>(high));
  return make_float2(high, high == 0 ? 0.0f : __fdividef(low, high));
}

// The product with both norms is off by 2^-44 at most when it is rounded, once: exactly 1 for equal vectors, -1 for
// opposite ones, and the same for (i, j) and (j, i).
__device__ __forceinline__ float cosine(float dot, float2 i, float2 j) {
  const float scale = __fmul_rn(i.x, j.x);
  const float scale_low = fmaf(scale, __fadd_rn(i.y, j.y), fmaf(i.x, j.x, -scale));
  return fmaf(dot, scale, __fmul_rn(dot, scale_low));
}

// In [0, 2]; NaN stays NaN.
__device__ __forceinline__ float cosine_distance(float dot, float2 i, float2 j) {
  const float distance = 1.0f - cosine(dot, i, j);
  return distance < 0.0f ? 0.0f : (distance > 2.0f ? 2.0f : distance);
}

// Exactly half of cosine_distance(), but for NaN, which becomes 0.
__device__ __forceinline__ float half_distance(float cosine) { return __saturatef(fmaf(cosine, -0.5f, 0.5f)); }

// The same, but NaN stays NaN.
__device__ __forceinline__ float half_distance_or_nan(float cosine) {
  const float half = half_distance(cosine);
  return cosine == cosine ? half : cosine;
}

// Norms of the tile's rows and columns, [left 128][right 128], beside the stages.
// Then comes what a kernel has of its own.
constexpr unsigned kNormsBytes = 2 * kGramTile * sizeof(float2);
template <typename Shape>
constexpr unsigned kOwnOffset = kStagesBytes<Shape> + kNormsBytes;

template <typename Shape>
__device__ __forceinline__ device::Shared<float2> tile_norms() {
  return device::shared<float2>(kStagesBytes<Shape>, 2 * kGramTile);
}

// Zeros beyond the last row. Before gram(), which orders it with what reads the norms.
template <typename Shape>
__device__ __forceinline__ void stage_norms(GramNorms left, int left_first, int left_count, GramNorms right,
                                            int right_first, int right_count) {
#pragma unroll
  for (int turn = 0; turn < 2 * kGramTile / Shape::kThreads; ++turn) {
    const int t = turn * Shape::kThreads + static_cast<int>(threadIdx.x);
    const bool is_left = t < kGramTile;
    const int64_t row = (is_left ? int64_t{left_first} : int64_t{right_first} - kGramTile) + t;
    const bool valid = row < (is_left ? left_count : right_count);
    tile_norms<Shape>()[t] = split_norm(valid ? (is_left ? left : right)[row] : 0.0);
  }
}

// Whether all the panel's rows and columns are there, none is zero, NaN or Inf, and `also` holds: the same for the
// warp.
template <typename Shape>
__device__ __forceinline__ bool is_regular(PanelPlace place, bool also = true) {
  constexpr int kRows = Shape::kPanelRows;
  const device::Shared<float2> norms = tile_norms<Shape>();
  const int lane = device::lane_id(), row = place.first_row + lane % (kRows < 32 ? kRows : 32);
  const float2 a = norms[row], b = norms[row + (kRows - 1) / 32 * 32], c = norms[kGramTile + place.first_column + lane];
  return __all_sync(device::kAllLanes, also && a.x > 0 && b.x > 0 && c.x > 0);
}

// Calls f(r, c, cosine) for the thread's part of the panel, and row_done(r) after the last of row r.
template <typename Shape, typename F, typename RowDone>
__device__ __forceinline__ void for_each_cosine(typename Shape::Panel& panel, PanelPlace place, const F& f,
                                                const RowDone& row_done) {
  const device::Shared<float2> norms = tile_norms<Shape>();
  float2 column[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) column[c] = norms[kGramTile + place.column(c)];
#pragma unroll
  for (int r = 0; r < Shape::Panel::kRows; ++r) {
    const float2 row = norms[place.row(r)];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) f(r, c, cosine(panel.at(r, c), row, column[c]));
    row_done(r);
  }
}

}  // namespace pact
