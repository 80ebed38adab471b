// How rows come into shared memory for a Gram tile: 64 bytes of each row per stage, by async copies.
#pragma once

#include "gram_shape.cuh"

namespace pact {

// One stage of both sides in shared memory.
template <typename T>
struct GramStage {
  device::Shared<device::Vector<T>> left, right;
};

// The stage that is used at a step.
template <typename T, typename Shape>
__device__ __forceinline__ GramStage<T> stage_at(int step) {
  constexpr int kHalf = kGramTile * kChunksPerRow;
  const auto stages = device::shared<device::Vector<T>>(0, Shape::kStages * 2 * kHalf);
  const auto at = stages + step % Shape::kStages * 2 * kHalf;
  return {at, at + kHalf};
}

// What one thread copies per stage: one chunk of each of two or four rows of one side. In place of rows beyond the last
// come copies of it, which nobody asks for. Places::chunk(row, chunk) says where in the stage's side a chunk goes.
template <typename T, int kThreads, typename Places>
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
      device::async_copy16(to + (Places::chunk(own_row(), chunk()) + i * kApart * kChunksPerRow), from_[i] + k,
                           k < left_);
  }

 private:
  static constexpr int kApart = kThreads / kChunksPerRow, kCopies = kGramTile / kApart;
  static_assert(kApart % 32 == 0);  // or else their chunks would be placed differently
  static __device__ __forceinline__ int own_row() { return static_cast<int>(threadIdx.x) / kChunksPerRow; }
  static __device__ __forceinline__ int chunk() { return static_cast<int>(threadIdx.x) % kChunksPerRow; }
  const device::Vector<T>* from_[kCopies];
  int left_;  // vectors from the thread's first one to the row's end
};

}  // namespace pact
