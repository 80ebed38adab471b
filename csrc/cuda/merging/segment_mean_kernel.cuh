// Means of the rows of each segment, once they are sorted: one sum per column and segment, rows added in ascending
// order, so that the bits are those of a loop.
//
// A block takes a segment and as many columns as its threads hold, kBatchRows rows at a time whose loads are under way
// together: most segments are one such batch. A segment of many rows would keep two blocks busy and all others waiting,
// so that such segments go to blocks of their own: of 64 bytes of columns, whose threads copy rows to shared memory as
// far ahead as it reaches, while a few of them add.
#pragma once

#include "../device/async_copy.cuh"
#include "../device/convert.cuh"
#include "segment_sort_kernel.cuh"

namespace pact {

constexpr int kLeastMeanThreads = 128, kMostMeanThreads = 256;
constexpr int kBatchRows = 4;
constexpr int kSliceVectors = 4, kSliceWords = kSliceVectors * 4;  // of a row of a segment of many
constexpr int kStages = 5;
constexpr int kWordRows = 8;  // that a thread reads from a stage at a time; a warp's rows are a whole number of them

// Where the kernel's blocks lie: first those for segments of many rows, `slots` for each slice of the columns, then
// `column_blocks` for each segment.
struct MeanGrid {
  int segments, column_blocks;
  int slices, slots;  // no slots: any segment is one of few
  __host__ __device__ int of_many() const { return slices * slots; }
  __host__ __device__ int blocks() const { return of_many() + segments * column_blocks; }
};

__host__ __device__ constexpr unsigned mean_shared_bytes(unsigned threads) { return kStages * threads * 16; }

template <typename T>
struct MeanRows {
  const T* data;
  int64_t stride;
  int width;
};

template <typename T, int kVector>
__device__ inline void mean_of_few(const MeanRows<T>& x, const int* __restrict__ member, int count, int64_t column,
                                   T* __restrict__ mean) {
  struct alignas(kVector * sizeof(T)) Piece {
    T at[kVector];
  };
  using Bits = std::conditional_t<(kVector > 1), uint4, T>;  // a piece under way: whole registers
  static_assert(sizeof(Bits) == sizeof(Piece));
  const T* from = x.data + column;
  float sum[kVector] = {};
  for (int first = 0; first < count; first += kBatchRows) {
    int64_t row[kBatchRows];
    Bits bits[kBatchRows];
#pragma unroll
    for (int r = 0; r < kBatchRows; ++r) row[r] = member[min(first + r, count - 1)];
#pragma unroll
    for (int r = 0; r < kBatchRows; ++r)
      if (first + r < count) bits[r] = *reinterpret_cast<const Bits*>(from + row[r] * x.stride);
#pragma unroll
    for (int r = 0; r < kBatchRows; ++r)
      if (first + r < count) {
        const Piece piece = *reinterpret_cast<const Piece*>(&bits[r]);
#pragma unroll
        for (int e = 0; e < kVector; ++e) sum[e] += device::to_float(piece.at[e]);
      }
  }
  const float divisor = count ? float(count) : 1.0f;
  Piece out;
#pragma unroll
  for (int e = 0; e < kVector; ++e) out.at[e] = device::from_float<T>(sum[e] / divisor);
  *reinterpret_cast<Piece*>(mean + column) = out;
}

// 4 bytes of a row.
template <typename T>
struct alignas(4) RowWord {
  T at[4 / sizeof(T)];
};

// One slice of the columns of one segment: `member` are its rows. The block calls.
template <typename T>
__device__ inline void mean_of_many(const MeanRows<T>& x, const int* __restrict__ member, int count, int slice,
                                    T* __restrict__ mean) {
  constexpr int kVector = device::kPerVector<T>, kPerWord = 4 / sizeof(T);
  const int threads = blockDim.x, rows = threads / kSliceVectors;  // of a stage
  const int own_row = int(threadIdx.x) / kSliceVectors;
  const int64_t own_column = (int64_t(slice) * kSliceVectors + threadIdx.x % kSliceVectors) * kVector;
  const bool inside = own_column < x.width;
  const device::Shared<device::Vector<T>> stages = device::shared<device::Vector<T>>(0, kStages * threads);
  const device::Shared<RowWord<T>> words = device::shared<RowWord<T>>(0, kStages * threads * 4);
  const auto member_of = [&](int stage) {
    const int k = stage * rows + own_row;
    return k < count ? member[k] : -1;
  };
  // `row`: this thread's of that stage. Rows behind the last one are zeros, which add nothing.
  const auto copy = [&](int stage, int row) {
    const T* from = x.data + (row >= 0 && inside ? row * x.stride + own_column : 0);
    device::async_copy16(stages + (stage % kStages * threads + int(threadIdx.x)),
                         reinterpret_cast<const device::Vector<T>*>(from), row >= 0 && inside);
    device::async_commit();
  };
  for (int s = 0; s < kStages - 1; ++s) copy(s, member_of(s));
  int ahead = member_of(kStages - 1);

  float sum[kPerWord] = {};
  for (int s = 0; s * rows < count; ++s) {
    device::async_wait<kStages - 2>();
    __syncthreads();  // stage s is there, and all are done with stage s - 1
    copy(s + kStages - 1, ahead);
    ahead = member_of(s + kStages);
    if (threadIdx.x < kSliceWords) {
      const int begin = s % kStages * threads * 4 + int(threadIdx.x);
      for (int first = 0; first < rows; first += kWordRows) {
        RowWord<T> word[kWordRows];
#pragma unroll
        for (int r = 0; r < kWordRows; ++r) word[r] = words[begin + (first + r) * kSliceWords];
#pragma unroll
        for (int r = 0; r < kWordRows; ++r)
#pragma unroll
          for (int e = 0; e < kPerWord; ++e) sum[e] += device::to_float(word[r].at[e]);
      }
    }
  }
  device::async_wait<0>();
  __syncthreads();  // the stages are free

  const int64_t column = int64_t(slice) * kSliceVectors * kVector + int(threadIdx.x) * kPerWord;
  if (threadIdx.x >= kSliceWords || column >= x.width) return;
  RowWord<T> out;
#pragma unroll
  for (int e = 0; e < kPerWord; ++e) out.at[e] = device::from_float<T>(sum[e] / float(count));
  *reinterpret_cast<RowWord<T>*>(mean + column) = out;
}

// kVector is a whole 16-byte vector, or 1 for any alignment, and then there are no slots.
template <typename T, int kVector>
__global__ void __launch_bounds__(kMostMeanThreads, 5)
    segment_mean_kernel(MeanRows<T> x, MeanGrid grid, const int* __restrict__ offset,
                        const int64_t* __restrict__ counts, const int* __restrict__ members,
                        const int* __restrict__ many, const int* __restrict__ many_count, T* __restrict__ means) {
  const int block = int(blockIdx.x) - grid.of_many();
  if constexpr (kVector > 1) {
    if (block < 0) {
      const int slice = int(blockIdx.x) % grid.slices, total = *many_count;
      for (int m = int(blockIdx.x) / grid.slices; m < total; m += grid.slots) {
        const int segment = many[m];
        mean_of_many(x, members + offset[segment], int(counts[segment]), slice, means + int64_t(segment) * x.width);
      }
      return;
    }
  }
  const int segment = block / grid.column_blocks;
  const int64_t column = (int64_t(block % grid.column_blocks) * blockDim.x + threadIdx.x) * kVector;
  const int count = int(counts[segment]);
  if (column >= x.width || (grid.slots > 0 && count > kFewRows)) return;
  mean_of_few<T, kVector>(x, members + offset[segment], count, column, means + int64_t(segment) * x.width);
}

}  // namespace pact
