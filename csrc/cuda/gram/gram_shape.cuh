// Dot products of 128 x 128 tokens: who holds which, and how wide rows are summed. gram.cuh has the products.
//
//               right 128              Panels of 32 columns, one word of adjacency. A thread holds rows 8 r + g of a
//            +---+---+---+---+         panel (g = lane / 4, t = lane % 4), and of each row columns 8 t + c, a byte of
//   left  64 | 0 | 1 | 2 | 3 |         it: what tensor cores leave it with when column 8 t + 2 b + e goes in as column
//         64 | 4 | 5 | 6 | 7 |         2 t + e of block b.
//            +---+---+---+---+         Drawn: panels of 64 rows. Those of warpgroups have 16.
#pragma once

#include <type_traits>

#include "../device/async_copy.cuh"
#include "../device/convert.cuh"
#include "../device/warp.cuh"

namespace pact {

constexpr int kGramTile = 128;
constexpr int gram_tiles(int n) { return n / kGramTile + (n % kGramTile != 0); }
constexpr int kGramThreads = 256;
constexpr int kChunksPerRow = 4;  // 16-byte chunks of a row per stage
constexpr unsigned kGramStageBytes = 2 * kGramTile * kChunksPerRow * 16;

// A sum of k float32 terms is off by up to k roundings (an FFMA rounds every term, a tensor core truncates every 16, or
// every 8 before compute capability 9): wide rows and float32 ones are summed in parts of kFoldTerms. The second set of
// accumulators costs one of the two blocks per SM; narrow half-precision rows do without where that is good enough. On
// an H200 that cost up to 1.1e-6 of the cosine at 512 terms, 1.9e-6 where one element of a row outweighs the others,
// and 2.6e-6 at 1024: too much. On an A100 it would be 3.1e-6 at 512, and 2.4e-6 in parts of 256.
constexpr int kFoldTerms = 128;
__host__ __device__ constexpr int fold_beyond(int major) { return major < 9 ? kFoldTerms : 512; }
template <typename T>
constexpr bool fold_sums(int width, int major) {
  return sizeof(T) == 4 || width > fold_beyond(major);
}

// Aligned rows, in 16-byte vectors; of a list of rows, when there is an index, those that it names.
template <typename T>
struct GramRows {
  const device::Vector<T>* data;
  int64_t stride;
  int width;
  int count;
  const int* index = nullptr;
  __device__ __forceinline__ const device::Vector<T>* row(int64_t i) const {
    return data + (index ? index[i] : i) * stride;
  }
};

// Reciprocal norms of rows, or of a list of them.
struct GramNorms {
  __host__ __device__ GramNorms(const double* norms, const int* list = nullptr) : data(norms), index(list) {}
  __device__ __forceinline__ int64_t row(int64_t i) const { return index ? index[i] : i; }
  __device__ __forceinline__ double operator[](int64_t i) const { return data[row(i)]; }
  const double* data;
  const int* index;
};

// A thread's part of a panel.
constexpr int kColumns = 8, kPanelColumns = 32, kPanelsAcross = kGramTile / kPanelColumns;
template <int kRows_>
struct GramPanel {
  static constexpr int kRows = kRows_;
  float part[kRows / 2][4][4];  // [16 rows][8 columns][fragment]
  __device__ __forceinline__ float& at(int r, int c) { return part[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) at(r, c) = 0;
  }
  __device__ __forceinline__ void add(GramPanel& other) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) at(r, c) += other.at(r, c);
  }
};

// Where in the tile a panel lies, and the thread's grid in it.
struct PanelPlace {
  int first_row, first_column;
  __device__ __forceinline__ int row(int r) const { return first_row + r * 8 + device::lane_id() / 4; }
  __device__ __forceinline__ int column(int c) const { return first_column + device::lane_id() % 4 * 8 + c; }
  __device__ __forceinline__ int word() const { return first_column / kPanelColumns; }
};

// Warps that multiply by themselves: eight with a panel of 64 rows each, or four with two side by side. Those read less
// shared memory per product, and their 128 accumulators leave registers for two such blocks on an SM; but not for the
// second set that folded sums take.
template <int kPanels_, bool kFold_>
struct Warps {
  static_assert(kPanels_ == 1 || !kFold_);
  using Panel = GramPanel<8>;
  static constexpr bool kGroups = false, kFold = kFold_;
  static constexpr int kPanels = kPanels_, kPanelRows = 64, kPanelsDown = kGramTile / kPanelRows;
  static constexpr int kWarpsAcross = kPanelsAcross / kPanels;
  static constexpr int kThreads = kPanelsDown * kWarpsAcross * 32, kBlocksPerSm = kFold ? 1 : 2;
  static constexpr int kStages = 4;
  static __device__ __forceinline__ PanelPlace place(int panel) {
    const int warp = device::warp_id();
    return {warp / kWarpsAcross * kPanelRows, (warp % kWarpsAcross * kPanels + panel) * kPanelColumns};
  }
};
template <bool kFold>
using WarpsFor = Warps<kFold ? 1 : 2, kFold>;

// Warpgroups, which Hopper's tensor cores take their orders from: two, each with 64 rows of the tile, a warp with 16.
template <bool kFold_>
struct Groups {
  using Panel = GramPanel<2>;
  static constexpr bool kGroups = true, kFold = kFold_;
  static constexpr int kPanels = kPanelsAcross, kPanelRows = 16, kPanelsDown = kGramTile / kPanelRows;
  static constexpr int kThreads = kGramThreads, kBlocksPerSm = kFold ? 1 : 2;
  static constexpr int kStages = 5;
  static __device__ __forceinline__ PanelPlace place(int panel) {
    return {device::warp_id() * kPanelRows, panel * kPanelColumns};
  }
};

// What the stages take, from the beginning of shared memory on.
template <typename Shape>
constexpr unsigned kStagesBytes = Shape::kStages * kGramStageBytes;

// Calls f(panel, place) for each of the warp's. Long panels come in a loop: their code is long, and a panel must be in
// fixed registers.
template <typename Shape, typename F>
__device__ __forceinline__ void for_each_panel(typename Shape::Panel (&tile)[Shape::kPanels], const F& f) {
  if constexpr (Shape::kPanels <= 2) {
#pragma unroll 1
    for (int p = 0; p < Shape::kPanels; ++p) {
      f(tile[0], Shape::place(p));
      tile[0] = tile[Shape::kPanels - 1];
    }
  } else {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) f(tile[p], Shape::place(p));
  }
}

// --- Across the lanes that share a row or a column ----------------------------------------------------------------

// Combines values[i] across the lanes that differ in bits kHigh, kHigh / 2, ..., kLow of the lane number, halving the
// values a lane holds with each bit: a lane whose bits read b ends with values[0] being number b.
template <int kHigh, int kLow, int kCount, typename T, typename Combine>
__device__ __forceinline__ void combine_lanes(T (&values)[kCount], const Combine& combine) {
  static_assert(kCount == 2 * kHigh / kLow);
  int count = kCount;
#pragma unroll
  for (int bit = kHigh; bit >= kLow; bit /= 2) {
    count /= 2;
    const bool upper = device::lane_id() & bit;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= count) continue;
      const T kept = upper ? values[i + count] : values[i], given = upper ? values[i] : values[i + count];
      values[i] = combine(kept, __shfl_xor_sync(device::kAllLanes, given, bit));
    }
  }
}

// Rows of a panel that are combined at a time: up to four, each held by the four lanes of its columns. The thread ends
// with that of row lane % kRowsAtOnce; of lanes with the same one, the first has the say.
template <typename Panel>
constexpr int kRowsAtOnce = Panel::kRows < 4 ? Panel::kRows : 4;
template <typename T, typename Combine>
__device__ __forceinline__ T combine_rows(T (&values)[4], const Combine& combine) {
  combine_lanes<2, 1>(values, combine);
  return values[0];
}
template <typename T, typename Combine>
__device__ __forceinline__ T combine_rows(T (&values)[2], const Combine& combine) {
  combine_lanes<1, 1>(values, combine);
  return combine(values[0], __shfl_xor_sync(device::kAllLanes, values[0], 2));
}
// The row in the tile that the lane has then, of those up to r; false where another lane has the say.
template <typename Panel>
struct OwnRow {
  __device__ __forceinline__ OwnRow(PanelPlace place, int r)
      : row(place.row(r + 1 - kRowsAtOnce<Panel> + device::lane_id() % 4)) {}
  __device__ __forceinline__ explicit operator bool() const {
    return kRowsAtOnce<Panel> == 4 || device::lane_id() % 4 < kRowsAtOnce<Panel>;
  }
  const int row;
};
// The eight columns, each held by the eight lanes of its rows: values[0] becomes that of column lane / 4.
template <typename T, typename Combine>
__device__ __forceinline__ T combine_columns(T (&values)[kColumns], const Combine& combine) {
  combine_lanes<16, 4>(values, combine);
  return values[0];
}

}  // namespace pact
