// Means of the rows of each label: a stable counting sort of the rows by label, then one sum per column and segment.
//
// A row's place among those of its label is counted: tiles of labels against the tiles before them, two instructions
// per pair, with no passes that wait for each other. Then a block takes a segment and some columns; a thread adds its
// columns' elements (16 bytes of them where alignment allows) row by row in ascending order, so that the bits are those
// of a loop.
#pragma once

#include "device/convert.cuh"
#include "split_scan.cuh"

namespace pact {

constexpr int kSortTile = 256;  // threads of a block and rows of a tile
constexpr unsigned kSortSharedBytes = kSortTile * sizeof(int);
constexpr int kOffsetThreads = 1024;
constexpr unsigned kOffsetSharedBytes = TileScan<int>::kSharedBytes;
constexpr int kMeanThreads = 128;
constexpr int kMeanRows = 8;  // rows whose loads a thread has in flight

// Labels of no segment become -1.
__device__ inline int segment_of(int64_t label, int segments) {
  return label >= 0 && label < segments ? int(label) : -1;
}

// rank[i]: rows before i with i's label; size[s]: rows with label s. Both start at zero. Grid: (tiles, any).
__global__ void __launch_bounds__(kSortTile)
    segment_rank_kernel(const int64_t* __restrict__ labels, int n, int segments, int* __restrict__ rank,
                        int* __restrict__ size) {
  const device::Shared<int> tile = device::shared<int>(0, kSortTile);
  const device::Shared<int4> quads = device::shared<int4>(0, kSortTile / 4);
  const int own_tile = blockIdx.x;
  const int64_t i = int64_t(own_tile) * kSortTile + threadIdx.x;
  const int own = i < n ? segment_of(labels[i], segments) : -1;

  int before = 0;
  for (int t = blockIdx.y; t <= own_tile; t += gridDim.y) {
    tile[threadIdx.x] =
        segment_of(t == own_tile && i >= n ? -1 : labels[int64_t(t) * kSortTile + threadIdx.x], segments);
    __syncthreads();
    if (t != own_tile) {
#pragma unroll 8
      for (int k = 0; k < kSortTile / 4; ++k) {
        const int4 other = quads[k];
        before += (other.x == own) + (other.y == own) + (other.z == own) + (other.w == own);
      }
    } else {
      for (int k = 0; k < int(threadIdx.x); ++k) before += int(tile[k]) == own;
      if (own >= 0) atomicAdd(size + own, 1);
    }
    __syncthreads();
  }
  if (own >= 0 && before) atomicAdd(rank + i, before);
}

// Turns sizes into the segments' first places, by one block, and gives the counts.
__global__ void __launch_bounds__(kOffsetThreads)
    segment_offset_kernel(const int* __restrict__ size, int segments, int* __restrict__ offset,
                          int64_t* __restrict__ counts) {
  TileScan<int> scan(device::shared<int>(0, 64));
  for (int64_t base = 0; base < segments; base += blockDim.x) {
    const int64_t s = base + threadIdx.x;
    const int own = s < segments ? size[s] : 0;
    const int before = scan.exclusive(own);
    if (s >= segments) continue;
    offset[s] = before;
    counts[s] = own;
  }
}

// members: the rows of segment 0, ascending, then those of segment 1, and so on.
__global__ void __launch_bounds__(kSortTile)
    segment_place_kernel(const int64_t* __restrict__ labels, int n, int segments, const int* __restrict__ offset,
                         const int* __restrict__ rank, int* __restrict__ members) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int segment = segment_of(labels[i], segments);
  if (segment >= 0) members[offset[segment] + rank[i]] = int(i);
}

// Grid: (segments, blocks of kMeanThreads * kVector columns). kVector is a whole 16-byte vector, or 1 for any
// alignment.
template <typename T, int kVector>
__global__ void __launch_bounds__(kMeanThreads, 8)
    segment_mean_kernel(const T* __restrict__ x, int64_t stride, int width, const int* __restrict__ offset,
                        const int64_t* __restrict__ counts, const int* __restrict__ members, T* __restrict__ means) {
  struct alignas(kVector * sizeof(T)) Piece {
    T at[kVector];
  };
  const int64_t column = (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * kVector;
  if (column >= width) return;
  const int64_t segment = blockIdx.x;
  const int count = int(counts[segment]);
  const int* member = members + offset[segment];
  const T* from = x + column;

  float sum[kVector] = {};
  int k = 0;
  for (; k + kMeanRows <= count; k += kMeanRows) {
    Piece rows[kMeanRows];
#pragma unroll
    for (int r = 0; r < kMeanRows; ++r) rows[r] = *reinterpret_cast<const Piece*>(from + member[k + r] * stride);
#pragma unroll
    for (int r = 0; r < kMeanRows; ++r)
#pragma unroll
      for (int e = 0; e < kVector; ++e) sum[e] += device::to_float(rows[r].at[e]);
  }
#pragma unroll 4
  for (; k < count; ++k) {
    const Piece row = *reinterpret_cast<const Piece*>(from + member[k] * stride);
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum[e] += device::to_float(row.at[e]);
  }

  const float divisor = count ? float(count) : 1.0f;
  Piece mean;
#pragma unroll
  for (int e = 0; e < kVector; ++e) mean.at[e] = device::from_float<T>(sum[e] / divisor);
  *reinterpret_cast<Piece*>(means + segment * width + column) = mean;
}

}  // namespace pact
