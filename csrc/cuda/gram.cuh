// Dot products of 128 x 128 tokens: the main loop of density, max_distance, assign and attention.
//
//               right 128              Panels of 64 x 32. A thread holds an 8 x 8 grid of its warp's panel, row 8 r +
//               g,
//            +---+---+---+---+         column 8 t + c (g = lane / 4, t = lane % 4): what mma.sync leaves it with when
//   left  64 | 0 | 1 | 2 | 3 |         column 8 t + 2 b + e goes in as column 2 t + e of block b; the FFMA path for
//         64 | 4 | 5 | 6 | 7 |         float32 does the same. A panel's 32 columns are one word of adjacency, a
//            +---+---+---+---+         thread's 8 a byte of it.
//
// Eight warps with a panel each, or four with two side by side: those read less shared memory per product, and their
// 128 accumulators leave registers for two such blocks on an SM.
// 64 bytes of each row per stage, four stages of async copies in flight: 64 KB, two blocks on an SM of 164 KB or more.
// 16-byte chunks are swizzled by bits 1 to 4 of the row, so that the 8 rows of an ldmatrix, consecutive ones on the
// left and 8 t and 8 t + 1 on the right, fall into different banks.
#pragma once

#include <type_traits>

#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"

namespace pact {

constexpr int kGramTile = 128;
constexpr int gram_tiles(int n) { return n / kGramTile + (n % kGramTile != 0); }
constexpr int kGramThreads = 256;
constexpr int kGramStages = 4;
constexpr int kChunksPerRow = 4;  // 16-byte chunks of a row per stage
constexpr unsigned kGramStageBytes = 2 * kGramTile * kChunksPerRow * 16;
constexpr unsigned kGramBytes = kGramStages * kGramStageBytes;

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
constexpr int gram_blocks_per_sm(bool fold) { return fold ? 1 : 2; }

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
struct GramTile {
  float part[4][4][4];  // [16 rows][8 columns][fragment]
  __device__ __forceinline__ float& at(int r, int c) { return part[r / 2][c / 2][r % 2 * 2 + c % 2]; }
};
constexpr int kRows = 8, kColumns = 8;
constexpr int kPanelRows = 64, kPanelColumns = 32;
constexpr int kPanelsDown = kGramTile / kPanelRows, kPanelsAcross = kGramTile / kPanelColumns;

// Where in the tile a panel lies, and the thread's grid in it.
struct PanelPlace {
  int first_row, first_column;
  __device__ __forceinline__ int row(int r) const { return first_row + r * 8 + device::lane_id() / 4; }
  __device__ __forceinline__ int column(int c) const { return first_column + device::lane_id() % 4 * 8 + c; }
};

// How the warps of a block share the tile: each has kPanels panels side by side.
template <int kPanels_>
struct GramShape {
  static constexpr int kPanels = kPanels_;
  static constexpr int kWarpsAcross = kPanelsAcross / kPanels;
  static constexpr int kThreads = kPanelsDown * kWarpsAcross * 32;
  static __device__ __forceinline__ PanelPlace place(int panel) {
    const int warp = device::warp_id();
    return {warp / kWarpsAcross * kPanelRows, (warp % kWarpsAcross * kPanels + panel) * kPanelColumns};
  }
};
using NarrowWarps = GramShape<1>;
using WideWarps = GramShape<2>;
static_assert(NarrowWarps::kThreads == kGramThreads);

// Folded sums take a second set of accumulators, which a warp with two panels has no registers for.
template <bool kFold>
using ShapeFor = std::conditional_t<kFold, NarrowWarps, WideWarps>;

// With a panel each.
__device__ __forceinline__ int warp_column() { return NarrowWarps::place(0).first_column; }
__device__ __forceinline__ int gram_row(int r) { return NarrowWarps::place(0).row(r); }
__device__ __forceinline__ int gram_column(int c) { return NarrowWarps::place(0).column(c); }

// Place of a chunk in a stage's half tile.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kChunksPerRow + (chunk ^ ((row >> 1 ^ row >> 3) & 3));
}

// What one thread copies per stage: one chunk of each of two or four rows of one side. In place of rows beyond the last
// come copies of it, which nobody asks for.
template <typename T, int kThreads>
class GramLoader {
 public:
  __device__ __forceinline__ GramLoader(const GramRows<T>& rows, int first) : left_(rows.width - chunk()) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      from_[i] = rows.row(min(int64_t{first} + own_row() + i * kApart, int64_t{rows.count} - 1)) + chunk();
  }
  // The stage's chunks beginning at vector k of the rows; zeros beyond a row's width.
  __device__ __forceinline__ void load(device::Shared<device::Vector<T>> to, int k) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      device::async_copy16(to + (swizzled(own_row(), chunk()) + i * kApart * kChunksPerRow), from_[i] + k, k < left_);
  }

 private:
  static constexpr int kApart = kThreads / kChunksPerRow, kCopies = kGramTile / kApart;
  static_assert(kApart % 32 == 0);  // or else their chunks would be swizzled differently
  static __device__ __forceinline__ int own_row() { return static_cast<int>(threadIdx.x) / kChunksPerRow; }
  static __device__ __forceinline__ int chunk() { return static_cast<int>(threadIdx.x) % kChunksPerRow; }
  const device::Vector<T>* from_[kCopies];
  int left_;  // vectors from the thread's first one to the row's end
};

// One stage of both sides in shared memory.
template <typename T>
struct GramStage {
  device::Shared<device::Vector<T>> left, right;
};

// What a thread multiplies at a time, from shared memory: 16 terms on tensor cores.
template <typename T, typename Shape>
struct Fragments {
  static constexpr int kPerStage = kChunksPerRow / 2;
  uint32_t a[4][4], b[2 * Shape::kPanels][4];

  __device__ __forceinline__ void load(const GramStage<T>& stage, int k) {
#pragma unroll
    for (int m = 0; m < 4; ++m) device::ldmatrix_x4(a[m], stage.left + row_place(m, k));
#pragma unroll
    for (int n = 0; n < 2 * Shape::kPanels; ++n) device::ldmatrix_x4(b[n], stage.right + column_place(n, k));
  }
  __device__ __forceinline__ void multiply(const GramStage<T>&, int, GramTile (&acc)[Shape::kPanels]) const {
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int n = 0; n < 4 * Shape::kPanels; ++n)
        device::mma_m16n8k16<T>(acc[n / 4].part[m][n % 4], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }

 private:
  // swizzled(row, 2 k + lane / 16) of row lane % 16 of block m, and swizzled(column, 2 k + lane / 8 % 2) of the column
  // that is row lane % 8 of blocks 2 n and 2 n + 1: of what the thread decides there are two values each.
  static __device__ __forceinline__ int row_place(int m, int k) {
    const int lane = device::lane_id(), own = lane / 16 ^ lane / 8 % 2 ^ lane / 2 % 4;
    return (Shape::place(0).first_row + lane % 16) * kChunksPerRow + (own ^ (m + k) % 2 * 2) + m * 16 * kChunksPerRow;
  }
  static __device__ __forceinline__ int column_place(int n, int k) {
    const int lane = device::lane_id(), own = lane / 16 ^ lane / 8 % 2 ^ lane % 8 / 2;
    const int column = Shape::place(0).first_column + lane % 8 / 2 * 8 + lane / 16 * 2 + lane % 2;
    return column * kChunksPerRow + (own ^ (n + k) % 2 * 2) + (n / 2 * kPanelColumns + n % 2 * 4) * kChunksPerRow;
  }
};

// In float32 the four terms of a chunk, each by one FFMA in ascending order. The columns come one ahead of their use.
template <>
struct Fragments<float, NarrowWarps> {
  static constexpr int kPerStage = kChunksPerRow;
  device::Vector<float> a[kRows], b;

  __device__ __forceinline__ void load(const GramStage<float>& stage, int k) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = stage.left[row_place(r, k)];
    b = stage.right[column_place(0, k)];
  }
  __device__ __forceinline__ void multiply(const GramStage<float>& stage, int k, GramTile (&acc)[1]) const {
    device::Vector<float> column = b;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      device::Vector<float> next = column;
      if (c + 1 < kColumns) next = stage.right[column_place(c + 1, k)];
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int r = 0; r < kRows; ++r) acc[0].at(r, c) = fmaf(a[r].at[e], column.at[e], acc[0].at(r, c));
      column = next;
    }
  }

 private:
  // swizzled(gram_row(r), k) and swizzled(gram_column(c), k): of what the thread decides there are four values each.
  static __device__ __forceinline__ int row_place(int r, int k) {
    const int group = device::lane_id() / 4;
    return gram_row(0) * kChunksPerRow + (((k ^ r) & 3) ^ group / 2) + r * 8 * kChunksPerRow;
  }
  static __device__ __forceinline__ int column_place(int c, int k) {
    return gram_column(0) * kChunksPerRow + ((k ^ c / 2) ^ device::lane_id() % 4) + c * kChunksPerRow;
  }
};

__device__ __forceinline__ void clear(GramTile& tile) {
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) tile.at(r, c) = 0;
}

// Dot products of left rows [left_first, +128) with right rows [right_first, +128), of equal width. Uses the first
// kGramBytes of shared memory; what the block wrote elsewhere in shared memory before is visible after. Every sum takes
// its terms in the same order, whatever its place in a tile: equal rows have equal products.
//
// Where there are registers for it, fragments are read one step ahead of their use, so that a stage is awaited before
// the last step of the one before.
template <typename T, bool kFold, typename Shape>
__device__ __forceinline__ void gram(const GramRows<T>& left, int left_first, const GramRows<T>& right, int right_first,
                                     GramTile (&tile)[Shape::kPanels]) {
  constexpr bool kAhead = kFold || Shape::kThreads < kGramThreads;
  constexpr int kEarly = kAhead;  // a stage is awaited one step before it is used
  constexpr int kHalf = kGramTile * kChunksPerRow, kPerStage = Fragments<T, Shape>::kPerStage;
  constexpr int kFoldStages = kFoldTerms / (kChunksPerRow * device::kPerVector<T>);
  const device::Shared<device::Vector<T>> stages = device::shared<device::Vector<T>>(0, kGramStages * 2 * kHalf);
  const GramLoader<T, Shape::kThreads> load_left(left, left_first), load_right(right, right_first);
  const int steps = (left.width + kChunksPerRow - 1) / kChunksPerRow;

  const auto stage_of = [&](int step) {
    const auto at = stages + step % kGramStages * 2 * kHalf;
    return GramStage<T>{at, at + kHalf};
  };
  const auto fetch = [&](int step) {
    if (step < steps) {
      const GramStage<T> stage = stage_of(step);
      load_left.load(stage.left, step * kChunksPerRow);
      load_right.load(stage.right, step * kChunksPerRow);
    }
    device::async_commit();  // an empty group, too, so that the count of groups tells the stage
  };
  const auto next_stage = [&](int step) {
    device::async_wait<kGramStages - kEarly - 2>();
    __syncthreads();  // the stage has landed for all, and all are done with the one before the last
    fetch(step + kGramStages - 1 - kEarly);
    return stage_of(step);
  };
  for (int step = 0; step < kGramStages - 1 - kEarly; ++step) fetch(step);

  GramTile sums[Shape::kPanels];
  GramTile(&acc)[Shape::kPanels] = kFold ? sums : tile;
#pragma unroll
  for (int p = 0; p < Shape::kPanels; ++p) clear(acc[p]);
  if (kFold) clear(tile[0]);
  Fragments<T, Shape> fragments[2];
  GramStage<T> stage;
  if (kAhead) fragments[0].load(stage = next_stage(0), 0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (!kAhead) stage = next_stage(step);
#pragma unroll
    for (int k = 0; k < kPerStage; ++k) {
      const GramStage<T> from = stage;
      const bool last = k + 1 == kPerStage;
      if (!kAhead) fragments[0].load(stage, k);
      if (kAhead && last && step + 1 < steps) stage = next_stage(step + 1);
      if (kAhead && (!last || step + 1 < steps)) fragments[(k + 1) % 2].load(stage, (k + 1) % kPerStage);
      fragments[kAhead ? k % 2 : 0].multiply(from, k, acc);
    }
    if (kFold && ((step + 1) % kFoldStages == 0 || step + 1 == steps)) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) tile[0].at(r, c) += acc[0].at(r, c);
      clear(acc[0]);
    }
  }
}

// By warps with a panel each.
template <typename T, bool kFold>
__device__ __forceinline__ void gram(const GramRows<T>& left, int left_first, const GramRows<T>& right, int right_first,
                                     GramTile& tile) {
  GramTile one[1];
  gram<T, kFold, NarrowWarps>(left, left_first, right, right_first, one);
  tile = one[0];
}

// Calls f(panel, place) for each of the warp's, in a loop: the code is long, and its panel must be in fixed registers.
template <typename Shape, typename F>
__device__ __forceinline__ void for_each_panel(GramTile (&tile)[Shape::kPanels], const F& f) {
#pragma unroll 1
  for (int p = 0; p < Shape::kPanels; ++p) {
    f(tile[0], Shape::place(p));
    tile[0] = tile[Shape::kPanels - 1];
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

// Four rows, each held by the four lanes of its columns: values[0] becomes that of row lane % 4.
template <typename T, typename Combine>
__device__ __forceinline__ T combine_rows(T (&values)[4], const Combine& combine) {
  combine_lanes<2, 1>(values, combine);
  return values[0];
}
// The eight columns, each held by the eight lanes of its rows: values[0] becomes that of column lane / 4.
template <typename T, typename Combine>
__device__ __forceinline__ T combine_columns(T (&values)[kColumns], const Combine& combine) {
  combine_lanes<16, 4>(values, combine);
  return values[0];
}

}  // namespace pact
