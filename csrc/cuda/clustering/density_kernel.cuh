// Density and adjacency from the upper triangle of Gram tiles; nothing n x n is stored but bits.
//
// Each pair is looked at once. Its density term, rounded to 2^-31, goes to the sums of its row and of its column, which
// are integers: exact, and the same in any order. Its bit goes to the tile's words, 32 columns of a row each, which is
// what one warp holds; they leave the block once, and once more as their transpose:
//
//     adjacency [row][column word]      . U .      U: tile (ti, tj), 128 rows x 4 words
//                                       L . .      L: its transpose at (tj, ti); on the diagonal they are one
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../device/math.cuh"
#include "adjacency_bits.cuh"

namespace pact {

using DensitySum = unsigned long long;

template <typename Shape>
constexpr unsigned kDensityRowsOffset = kOwnOffset<Shape> + kWordsBytes;  // [row 128][panel]
template <typename Shape>
constexpr unsigned kDensityColumnsOffset =
    kDensityRowsOffset<Shape> + kGramTile * kPanelsAcross * sizeof(DensitySum);  // [column 128][panel]
template <typename Shape>
constexpr unsigned kDensitySharedBytes =
    kDensityColumnsOffset<Shape> + kGramTile * Shape::kPanelsDown * sizeof(DensitySum);

// Added once for a token with NaN or Inf in its key; densities of n < 2^30 tokens stay below it.
constexpr DensitySum kDensityNan = 1ull << 62;
constexpr DensitySum kDensityOne = 1ull << 32;

// 2^(factor * half distance), or 2^-(factor * half distance)^2, in units of 2^-31; 0 for NaN.
template <bool kGaussian>
__device__ __forceinline__ unsigned density_term(float half_distance, float factor) {
  float x = factor * half_distance;
  if constexpr (kGaussian) x = -(x * x);
  return __float2uint_rn(device::exp2_approx(x) * 0x1p31f);
}

// Of the term exp(exponent * distance), or exp(-(exponent * distance)^2).
inline float term_factor(float exponent, bool gaussian) {
  constexpr double kLog2E = 1.4426950408889634;
  const double factor = 2 * exponent * (gaussian ? std::sqrt(kLog2E) : kLog2E);
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(factor, -kLargest, kLargest));
}

// The panel's pairs, to the block's words and to the sums of its rows and columns.
template <bool kGaussian, bool kAll, typename Shape>
__device__ __forceinline__ void add_pairs(typename Shape::Panel& panel, const CountedPairs<Shape>& counted,
                                          float factor, float half_cutoff) {
  constexpr int kAtOnce = kRowsAtOnce<typename Shape::Panel>;  // for the sake of registers
  const device::Shared<DensitySum> row_parts =
      device::shared<DensitySum>(kDensityRowsOffset<Shape>, kGramTile * kPanelsAcross);
  const device::Shared<DensitySum> column_parts =
      device::shared<DensitySum>(kDensityColumnsOffset<Shape>, kGramTile * Shape::kPanelsDown);
  const device::Shared<uint32_t> words = tile_words<Shape>();
  const PanelPlace place = counted.place();
  const auto add = [](DensitySum a, DensitySum b) { return a + b; };
  DensitySum row_sum[kAtOnce] = {}, column_sum[kColumns] = {};
  FarBits far;
  for_each_pair<kAll>(
      panel, counted,
      [&](int r, int c, float half, bool counts) {
        const unsigned term = counts ? density_term<kGaussian>(half, factor) : 0;
        row_sum[r % kAtOnce] = (c ? row_sum[r % kAtOnce] : 0) + term;
        column_sum[c] += term;
        if constexpr (kAll)
          far.add(half_cutoff - half);
        else
          far.add(counts && half <= half_cutoff ? 0.0f : -1.0f);
      },
      [&](int r) {
        if (r % kAtOnce != kAtOnce - 1) return;
        const OwnRow<typename Shape::Panel> own(place, r);
        const DensitySum sum = combine_rows(row_sum, add);
        if (own) row_parts[own.row * kPanelsAcross + place.word()] = sum;
        const uint32_t word = row_word(far.template near_rows<kAtOnce>());
        if (own) words[own.row * kWordsPerTile + place.word()] = word;
      });
  column_parts[place.column(device::lane_id() / 4) * Shape::kPanelsDown + place.first_row / Shape::kPanelRows] =
      combine_columns(column_sum, add);
}

template <int kParts>
__device__ __forceinline__ DensitySum sum_of_parts(unsigned offset, int i) {
  const device::Shared<DensitySum> parts = device::shared<DensitySum>(offset, kGramTile * kParts);
  DensitySum sum = 0;
#pragma unroll
  for (int p = 0; p < kParts; ++p) sum += parts[i * kParts + p];
  return sum;
}

// The parts of row i of the tile, or of column i - 128, to its token's density, in units of 2^-32.
template <typename Shape>
__device__ __forceinline__ void add_sum(PairTile tile, int i, int n, GramNorms inv_norm, DensitySum* density) {
  const bool is_row = i < kGramTile;
  const int64_t token = is_row ? int64_t{tile.row_first()} + i : int64_t{tile.column_first()} + i - kGramTile;
  if (token >= n) return;
  DensitySum sum = 2 * (is_row ? sum_of_parts<kPanelsAcross>(kDensityRowsOffset<Shape>, i)
                               : sum_of_parts<Shape::kPanelsDown>(kDensityColumnsOffset<Shape>, i - kGramTile));
  if (tile.row == tile.column && is_row) sum += isnan(inv_norm[token]) ? kDensityNan : kDensityOne;
  atomicAdd(density + token, sum);
}

// keys: [n, width]; density: [n], zero before; adjacency: [tiles * 128][words], words a multiple of 4, or null.
template <typename T, typename Shape, bool kGaussian>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    density_kernel(GramRows<T> keys, GramNorms inv_norm, float factor, DensitySum* __restrict__ density,
                   float half_cutoff, uint32_t* __restrict__ adjacency, int words) {
  const PairTile tile = pair_tile(blockIdx.x);
  stage_norms<Shape>(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  typename Shape::Panel dot[Shape::kPanels];
  gram<T, Shape>(keys, tile.row_first(), keys, tile.column_first(), dot);

  for_each_panel<Shape>(dot, [&](typename Shape::Panel& panel, PanelPlace place) {
    const CountedPairs<Shape> counted(tile, place, keys.count);
    if (counted.all())
      add_pairs<kGaussian, true>(panel, counted, factor, half_cutoff);
    else
      add_pairs<kGaussian, false>(panel, counted, factor, half_cutoff);
  });
  __syncthreads();

#pragma unroll
  for (int turn = 0; turn < 2 * kGramTile / Shape::kThreads; ++turn)
    add_sum<Shape>(tile, turn * Shape::kThreads + static_cast<int>(threadIdx.x), keys.count, inv_norm, density);
  if (adjacency) store_bits<Shape>(tile, keys.count, adjacency, words);
}

__global__ void __launch_bounds__(kGramThreads)
    density_to_float_kernel(const unsigned long long* __restrict__ density, int n, float* __restrict__ rho) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  rho[i] = density[i] >= kDensityNan ? __uint_as_float(0x7fc00000) : static_cast<float>(density[i]) * 0x1p-32f;
}

}  // namespace pact
