// Density and adjacency from the upper triangle of Gram tiles; nothing n x n is stored but bits.
//
// Each pair is looked at once. Its density term, rounded to 2^-31, goes to the sums of its row and of its column, which
// are integers: exact, and the same in any order. Its bit goes to the tile's words and to their mirror; a word is 32
// columns of one row, that is one warp's, or 32 rows of one column, half a warp's, and leaves the block once:
//
//     adjacency [row][column word]      . U .      U: tile (ti, tj), 128 rows x 4 words
//                                       L . .      L: its transpose at (tj, ti); on the diagonal they are one
#pragma once

#include "gram_pairs.cuh"

namespace pact {

constexpr int kWordsPerTile = kGramTile / 32;
constexpr unsigned kSumsOffset = kNormsOffset + kNormsBytes;  // [row 128][column 128]
constexpr unsigned kSumsBytes = 2 * kGramTile * sizeof(unsigned long long);
constexpr unsigned kUpperOffset = kSumsOffset + kSumsBytes;  // [row 128][4 words]
constexpr unsigned kLowerOffset = kUpperOffset + kGramTile * kWordsPerTile * 4;
constexpr unsigned kDensitySharedBytes = kLowerOffset + kGramTile * kWordsPerTile * 4;

// Added once for a token with NaN or Inf in its key; densities of n < 2^30 tokens stay below it.
constexpr unsigned long long kDensityNan = 1ull << 62;
constexpr unsigned long long kDensityOne = 1ull << 32;

struct DensityTerm {
  float exponent;
  bool gaussian;
  // In units of 2^-31; 0 for NaN.
  __device__ __forceinline__ unsigned operator()(float distance) const {
    float x = exponent * distance;
    if (gaussian) x = -(x * x);
    return __float2uint_rn(expf(x) * 0x1p31f);
  }
};

// The bits of one row, as they stand in the thread's 8 x 8 grid, moved to their columns in the warp's word.
__device__ __forceinline__ uint32_t row_word(uint64_t near, int r) {
  const uint32_t bits = static_cast<uint32_t>(near >> (r * kColumns)) & 0xff;
  return ((bits & 3) | (bits & 0x0c) << 6 | (bits & 0x30) << 12 | (bits & 0xc0) << 18) << device::lane_id() % 4 * 2;
}

// The bits of one column, moved to their rows in the warp's 64.
__device__ __forceinline__ unsigned long long column_word(uint64_t near, int c) {
  return (near >> c & 0x0101010101010101u) << device::lane_id() / 4;
}

// Bits of the warp's pairs, to the block's copy of U and L.
__device__ __forceinline__ void stage_bits(uint64_t near) {
  const device::Shared<uint32_t> upper = device::shared<uint32_t>(kUpperOffset, kGramTile * kWordsPerTile);
  const device::Shared<unsigned long long> lower =
      device::shared<unsigned long long>(kLowerOffset, kGramTile * kWordsPerTile / 2);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t rows[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) rows[r] = row_word(near, half * 4 + r);
    const uint32_t word = combine_rows(rows, [](uint32_t a, uint32_t b) { return a | b; });
    upper[gram_row(half * 4 + device::lane_id() % 4) * kWordsPerTile + warp_column() / 32] = word;
  }
  unsigned long long columns[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) columns[c] = column_word(near, c);
  const auto word = combine_columns(columns, [](unsigned long long a, unsigned long long b) { return a | b; });
  lower[gram_column(device::lane_id() / 4) * 2 + warp_row() / 64] = word;
}

// One 128-bit row of U or L by each thread.
__device__ __forceinline__ void store_bits(PairTile tile, int n, uint32_t* adjacency, int words) {
  const device::Shared<uint4> upper = device::shared<uint4>(kUpperOffset, kGramTile);
  const device::Shared<uint4> lower = device::shared<uint4>(kLowerOffset, kGramTile);
  const int i = static_cast<int>(threadIdx.x) % kGramTile;
  const bool mirror = static_cast<int>(threadIdx.x) >= kGramTile, diagonal = tile.row == tile.column;
  if (mirror && diagonal) return;
  uint4 row = mirror ? uint4(lower[i]) : uint4(upper[i]);
  if (diagonal) {
    const uint4 other = lower[i];
    const uint32_t self = static_cast<uint32_t>(i < n - tile.row_first()) << i % 32;
    row.x |= other.x | (i / 32 == 0 ? self : 0);
    row.y |= other.y | (i / 32 == 1 ? self : 0);
    row.z |= other.z | (i / 32 == 2 ? self : 0);
    row.w |= other.w | (i / 32 == 3 ? self : 0);
  }
  const int64_t token = static_cast<int64_t>(mirror ? tile.column : tile.row) * kGramTile + i;
  const int64_t word = static_cast<int64_t>(mirror ? tile.row : tile.column) * kWordsPerTile;
  *reinterpret_cast<uint4*>(adjacency + token * words + word) = row;
}

// keys: [n, width]; density: [n], zero before; adjacency: [tiles * 128][words], words a multiple of 4, or null.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, gram_blocks_per_sm(kFold))
    density_kernel(GramRows<T> keys, const double* __restrict__ inv_norm, DensityTerm density_term,
                   unsigned long long* __restrict__ density, float cutoff, uint32_t* __restrict__ adjacency,
                   int words) {
  const PairTile tile = pair_tile(blockIdx.x);
  const device::Shared<unsigned long long> sums = device::shared<unsigned long long>(kSumsOffset, 2 * kGramTile);
  sums[threadIdx.x] = 0ull;
  stage_norms(inv_norm, tile.row_first(), keys.count, inv_norm, tile.column_first(), keys.count);
  GramTile dot;
  gram<T, kFold>(keys, tile.row_first(), keys, tile.column_first(), dot);

  const uint64_t counted = pairs_to_count(tile, keys.count);
  const auto add = [](unsigned long long a, unsigned long long b) { return a + b; };
  unsigned long long row_sum[4] = {}, column_sum[kColumns] = {};
  uint64_t near = 0;
  for_each_distance(
      dot,
      [&](int r, int c, float distance) {
        const bool count = counted >> (r * kColumns + c) & 1;
        const unsigned term = count ? density_term(distance) : 0;
        row_sum[r % 4] = (c ? row_sum[r % 4] : 0) + term;
        column_sum[c] += term;
        near |= static_cast<uint64_t>(count && distance <= cutoff) << (r * kColumns + c);
      },
      [&](int r) {  // four rows at a time, for the sake of registers
        if (r % 4 == 3) atomicAdd(&sums[gram_row(r - 3 + device::lane_id() % 4)], combine_rows(row_sum, add));
      });
  atomicAdd(&sums[kGramTile + gram_column(device::lane_id() / 4)], combine_columns(column_sum, add));
  if (adjacency) stage_bits(near);
  __syncthreads();

  const int i = static_cast<int>(threadIdx.x);
  const int64_t token = i < kGramTile ? int64_t{tile.row_first()} + i : int64_t{tile.column_first()} + i - kGramTile;
  if (token < keys.count) {
    unsigned long long sum = 2 * static_cast<unsigned long long>(sums[i]);  // units of 2^-32
    if (tile.row == tile.column && i < kGramTile) sum += isnan(inv_norm[token]) ? kDensityNan : kDensityOne;
    atomicAdd(density + token, sum);
  }
  if (adjacency) store_bits(tile, keys.count, adjacency, words);
}

__global__ void __launch_bounds__(kGramThreads)
    density_to_float_kernel(const unsigned long long* __restrict__ density, int n, float* __restrict__ rho) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  rho[i] = density[i] >= kDensityNan ? __uint_as_float(0x7fc00000) : static_cast<float>(density[i]) * 0x1p-32f;
}

}  // namespace pact
