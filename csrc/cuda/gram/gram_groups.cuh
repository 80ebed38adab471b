// Dot products of 128 x 128 tokens by two warpgroups (Hopper): each multiplies its 64 rows with all columns.
//
// Tensor cores read both sides from shared memory, so that a warp spends an instruction on 64 x 128 x 16 products, and
// never stop between stages: at any time a group of products is under way and the next is ordered. Five stages: 80 KB,
// two blocks on an SM. Measured on an H200, such tiles take 6.3 to 6.6 TB/s from L2, at any width (bench/results).
#pragma once

#include "../device/wgmma.cuh"
#include "gram_load.cuh"

namespace pact {

// Chunks as wgmma wants them, and columns in the order that leaves a thread with 8 t .. 8 t + 7 (gram_shape.cuh).
struct GroupLeft {
  static __device__ __forceinline__ int chunk(int row, int chunk) {
    return row * kChunksPerRow + (chunk ^ (row >> 1 & 3));
  }
};
struct GroupRight {
  static __device__ __forceinline__ int chunk(int column, int chunk) {
    const int block = column >> 1 & 3, t = column >> 3 & 3;
    return GroupLeft::chunk((column & ~31) | block << 3 | t << 1 | (column & 1), chunk);
  }
};

template <typename T, typename Shape>
__device__ __forceinline__ void gram_of_groups(const GramRows<T>& left, int left_first, const GramRows<T>& right,
                                               int right_first, typename Shape::Panel (&tile)[Shape::kPanels]) {
  device::wgmma_only();
  constexpr int kPerStage = kChunksPerRow / 2, kFoldStages = kFoldTerms / (kChunksPerRow * device::kPerVector<T>);
  constexpr int kAhead = Shape::kStages - 2;  // one stage is multiplied, the one before may be, too
  const GramLoader<T, Shape::kThreads, GroupLeft> load_left(left, left_first);
  const GramLoader<T, Shape::kThreads, GroupRight> load_right(right, right_first);
  const int steps = (left.width + kChunksPerRow - 1) / kChunksPerRow;
  const int group_rows = device::warp_id() / 4 * 64;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const GramStage<T> stage = stage_at<T, Shape>(step);
      load_left.load(stage.left, step * kChunksPerRow);
      load_right.load(stage.right, step * kChunksPerRow);
    }
    device::async_commit();  // an empty group, too, so that the count of groups tells the stage
  };
  for (int step = 0; step < kAhead; ++step) fetch(step);

  typename Shape::Panel sums[Shape::kPanels], (&acc)[Shape::kPanels] = Shape::kFold ? sums : tile;
  static_assert(sizeof(acc) == 64 * sizeof(float));
  float (&flat)[64] = reinterpret_cast<float (&)[64]>(acc);
  if constexpr (Shape::kFold) {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) tile[p].clear();
  }
  const int part = Shape::kFold ? kFoldStages : steps;
#pragma unroll 1
  for (int begin = 0; begin < steps; begin += part) {
#pragma unroll 1
    for (int step = begin; step < min(begin + part, steps); ++step) {
      device::async_wait<kAhead - 1>();
      device::wgmma_publish();
      __syncthreads();  // the stage has landed for all, and the products of the one before the last are done
      fetch(step + kAhead);
      const GramStage<T> stage = stage_at<T, Shape>(step);
      device::wgmma_begin();
#pragma unroll
      for (int k = 0; k < kPerStage; ++k)
        device::wgmma_m64n128k16<T>(flat, stage.left + group_rows * kChunksPerRow, stage.right, k,
                                    k > 0 || step > begin);
      device::wgmma_commit();
      device::wgmma_wait_but_one();
    }
    device::wgmma_wait(flat);
    if constexpr (Shape::kFold) {
#pragma unroll
      for (int p = 0; p < Shape::kPanels; ++p) tile[p].add(acc[p]);
    }
  }
}

}  // namespace pact
