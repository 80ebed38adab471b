// Dot products of 128 x 128 tokens by warps that multiply by themselves: mma.sync, and FFMA for float32.
//
// Four stages of async copies in flight: 64 KB, two blocks on an SM of 164 KB or more. 16-byte chunks are swizzled by
// bits 1 to 4 of the row, so that the 8 rows of an ldmatrix, consecutive ones on the left and 8 t and 8 t + 1 on the
// right, fall into different banks.
#pragma once

#include "../device/mma.cuh"
#include "gram_load.cuh"

namespace pact {

// Place of a chunk in a stage's side.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kChunksPerRow + (chunk ^ ((row >> 1 ^ row >> 3) & 3));
}
struct WarpPlaces {
  static __device__ __forceinline__ int chunk(int row, int chunk) { return swizzled(row, chunk); }
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
  __device__ __forceinline__ void multiply(const GramStage<T>&, int,
                                           typename Shape::Panel (&acc)[Shape::kPanels]) const {
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
template <bool kFold>
struct Fragments<float, Warps<1, kFold>> {
  static constexpr int kRows = 8;
  static constexpr int kPerStage = kChunksPerRow;
  device::Vector<float> a[kRows], b;

  __device__ __forceinline__ void load(const GramStage<float>& stage, int k) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = stage.left[row_place(r, k)];
    b = stage.right[column_place(0, k)];
  }
  __device__ __forceinline__ void multiply(const GramStage<float>& stage, int k, GramPanel<8> (&acc)[1]) const {
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
    return Warps<1, kFold>::place(0).row(0) * kChunksPerRow + (((k ^ r) & 3) ^ group / 2) + r * 8 * kChunksPerRow;
  }
  static __device__ __forceinline__ int column_place(int c, int k) {
    return Warps<1, kFold>::place(0).column(0) * kChunksPerRow + ((k ^ c / 2) ^ device::lane_id() % 4) +
           c * kChunksPerRow;
  }
};

// Where there are registers for it, fragments are read one step ahead of their use, so that a stage is awaited before
// the last step of the one before.
template <typename T, typename Shape>
__device__ __forceinline__ void gram_of_warps(const GramRows<T>& left, int left_first, const GramRows<T>& right,
                                              int right_first, typename Shape::Panel (&tile)[Shape::kPanels]) {
  constexpr bool kFold = Shape::kFold;
  constexpr bool kAhead = kFold || Shape::kThreads < kGramThreads;
  constexpr int kEarly = kAhead;  // a stage is awaited one step before it is used
  constexpr int kPerStage = Fragments<T, Shape>::kPerStage;
  constexpr int kFoldStages = kFoldTerms / (kChunksPerRow * device::kPerVector<T>);
  const GramLoader<T, Shape::kThreads, WarpPlaces> load_left(left, left_first), load_right(right, right_first);
  const int steps = (left.width + kChunksPerRow - 1) / kChunksPerRow;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const GramStage<T> stage = stage_at<T, Shape>(step);
      load_left.load(stage.left, step * kChunksPerRow);
      load_right.load(stage.right, step * kChunksPerRow);
    }
    device::async_commit();  // an empty group, too, so that the count of groups tells the stage
  };
  const auto next_stage = [&](int step) {
    device::async_wait<Shape::kStages - kEarly - 2>();
    __syncthreads();  // the stage has landed for all, and all are done with the one before the last
    fetch(step + Shape::kStages - 1 - kEarly);
    return stage_at<T, Shape>(step);
  };
  for (int step = 0; step < Shape::kStages - 1 - kEarly; ++step) fetch(step);

  typename Shape::Panel sums[Shape::kPanels], (&acc)[Shape::kPanels] = kFold ? sums : tile;
#pragma unroll
  for (int p = 0; p < Shape::kPanels; ++p) acc[p].clear();
  if (kFold) tile[0].clear();
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
      tile[0].add(acc[0]);
      acc[0].clear();
    }
  }
}

}  // namespace pact
