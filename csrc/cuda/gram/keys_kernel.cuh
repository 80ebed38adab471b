// Keys made ready for the Gram kernels: rows packed and scaled, checked, reciprocal norms; every row is read once.
//
// A block takes eight rows, a warp each, through shared memory: async copies of the whole row, however wide, are under
// way at once. A warp finds its row's largest element, scales, and stores. Then the squares are summed:
//
//              256 terms  256 terms ...    A squared norm must have the bits of the Gram kernel's product of the row
//     row 0   | part 0   | part 1  |       with itself, or equal keys would not be at distance 0. So it is summed by
//     the
//       ...                                same instructions in the same order: on tensor cores as the diagonal of the
//     row 7   | part 0   | part 1  |       eight rows' product with themselves (their fragments serve as both
//     operands),
//                                          in float32 by a chain of FFMA.
//
// Where the Gram kernel folds its sums, parts do not depend on each other: a warp each (float32: a thread for each row
// of each), added in order. Where it does not, one warp goes through them all.
#pragma once

#include "../device/async_copy.cuh"
#include "../device/mma.cuh"
#include "../device/warp.cuh"
#include "../rows/magnitude.cuh"
#include "../rows/row_vectors.cuh"
#include "gram.cuh"

namespace pact {

constexpr int kKeyRows = 8;  // of a block
constexpr int kKeyThreads = kKeyRows * 32;

// Parts of the block's rows in shared memory, [part][row], 16 bytes apart: the eight rows of an ldmatrix, and the parts
// that neighbouring threads sum, lie in different banks.
template <typename T>
struct KeyTile {
  static constexpr int kVector = device::kPerVector<T>;
  static constexpr int kPartVectors = kFoldTerms / kVector;
  static constexpr int kPitch = kPartVectors + 1;
  static constexpr int kMostParts = 32 * kVector / 8;  // 64 KB; wider rows come in pieces, and are read twice
  static constexpr int kMostTerms = kMostParts * kFoldTerms;
  __host__ __device__ static constexpr int parts(int width) {
    return width < kMostTerms ? width / kFoldTerms + (width % kFoldTerms != 0) : kMostParts;
  }
  __host__ __device__ static constexpr unsigned vectors(int width) {
    return static_cast<unsigned>(parts(width) * kKeyRows * kPitch);
  }
  static __device__ __forceinline__ int at(int row, int vector) {
    return (vector / kPartVectors * kKeyRows + row) * kPitch + vector % kPartVectors;
  }
};
constexpr unsigned kKeySums = 32 * kKeyRows;  // [part][row] floats, before the tile
constexpr unsigned kKeyTileOffset = kKeySums * sizeof(float);
template <typename T>
constexpr unsigned key_shared_bytes(int width) {
  return kKeyTileOffset + KeyTile<T>::vectors(width) * 16;
}

// Copies `vectors` of a row, from element k on, to the warp's place in the tile; zeros from `width` on. Each lane gets
// what it will read.
template <typename T>
__device__ __forceinline__ void fetch_row(const T* __restrict__ row, int k, int width, int vectors,
                                          device::Shared<device::Vector<T>> tile) {
  constexpr int kVector = device::kPerVector<T>;
  const bool aligned = is_vector_aligned(row);
#pragma unroll 4
  for (int v = device::lane_id(); v < vectors; v += 32) {
    const int from = k + v * kVector;
    const auto to = tile + KeyTile<T>::at(device::warp_id(), v);
    if (aligned && from + kVector <= width) {
      device::async_copy16(to, reinterpret_cast<const device::Vector<T>*>(row + from));
    } else {
      device::Vector<T> vector;
#pragma unroll
      for (int e = 0; e < kVector; ++e) vector.at[e] = from + e < width ? row[from + e] : device::from_float<T>(0.0f);
      *to = vector;
    }
  }
  device::async_commit();
  device::async_wait<0>();
}

// sums[part][row] of `vectors` in the tile; unfolded, sums[0][row] of all of them.
template <typename T, bool kFold>
__device__ __forceinline__ void sum_squares(device::Shared<device::Vector<T>> tile, int vectors,
                                            device::Shared<float> sums) {
  constexpr int kPart = KeyTile<T>::kPartVectors;
  if constexpr (sizeof(T) == 4) {
    const int thread = static_cast<int>(threadIdx.x), part = thread / kKeyRows, row = thread % kKeyRows;
    if (part * kPart >= vectors) return;
    const int count = min(vectors - part * kPart, kPart);
    const auto from = tile + thread * KeyTile<T>::kPitch;
    float sum = 0;
#pragma unroll 8
    for (int v = 0; v < count; ++v) {
      const device::Vector<T> x = from[v];
#pragma unroll
      for (int e = 0; e < 4; ++e) sum = fmaf(x.at[e], x.at[e], sum);
    }
    sums[part * kKeyRows + row] = sum;
  } else {
    const int lane = device::lane_id(), group = lane / 4;
    for (int first = kFold ? device::warp_id() * kPart : 0; first < vectors; first += kKeyThreads / 32 * kPart) {
      if (!kFold && device::warp_id() > 0) return;
      const int last = kFold ? min(first + kPart, vectors) : vectors;
      float acc[4] = {};  // rows 8..15 of the product are the same again
#pragma unroll 4
      for (int v = first; v < last; v += 4) {  // 32 terms
        uint32_t x[4];
        device::ldmatrix_x4(x, tile + KeyTile<T>::at(lane % 8, v + lane / 8));
        const uint32_t low[4] = {x[0], x[0], x[1], x[1]}, high[4] = {x[2], x[2], x[3], x[3]};
        device::mma_m16n8k16<T>(acc, low, x[0], x[1]);
        device::mma_m16n8k16<T>(acc, high, x[2], x[3]);
      }
      if (lane % 4 == group / 2)  // who holds the diagonal
        sums[first / kPart * kKeyRows + group] = group % 2 ? acc[1] : acc[0];
      if (!kFold) return;
    }
  }
}

// Row i goes to out[i] (unless null), zero-padded from `width` to `out_width`; rows of
// float32 and bfloat16 scaled by a power of two to a largest element in [0.5, 1), which loses nothing and keeps sums of
// squares in range. inv_norm[i] (unless null) is of the row as it is stored. *bad = 1 (unless null) for NaN or Inf.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kKeyThreads)
    prepare_keys_kernel(const T* __restrict__ rows, int64_t stride, int width, int n, T* __restrict__ out,
                        int out_width, double* __restrict__ inv_norm, int* __restrict__ bad) {
  using Tile = KeyTile<T>;
  constexpr bool kScaled = !std::is_same_v<T, device::float16>;
  static_assert(fold_beyond(9) <= Tile::kMostTerms && Tile::kMostParts * kKeyRows <= kKeyThreads);
  const device::Shared<float> sums = device::shared<float>(0, kKeySums);
  const device::Shared<device::Vector<T>> tile =
      device::shared<device::Vector<T>>(kKeyTileOffset, Tile::vectors(out_width));
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kKeyRows, i = first + device::warp_id();
  const int thread = static_cast<int>(threadIdx.x), lane = device::lane_id();
  const bool valid = i < n;
  const T* row = rows + (valid ? i : 0) * stride;
  if (!valid) width = 0;
  const int pieces = out_width / Tile::kMostTerms + (out_width % Tile::kMostTerms != 0);
  // Of a piece, filled up to the 32 terms that sum_squares takes at a time.
  const auto vectors_of = [&](int piece) {
    const int terms = min(out_width - piece * Tile::kMostTerms, Tile::kMostTerms);
    return (terms + 31) / 32 * (32 / Tile::kVector);
  };

  unsigned largest = 0;
  for (int piece = 0; piece < pieces; ++piece) {
    fetch_row(row, piece * Tile::kMostTerms, width, vectors_of(piece), tile);
#pragma unroll 4
    for (int v = lane; v < vectors_of(piece); v += 32) {
      const device::Vector<T> vector = tile[Tile::at(device::warp_id(), v)];
#pragma unroll
      for (int e = 0; e < Tile::kVector; ++e) largest = max(largest, magnitude_bits(vector.at[e]));
    }
  }
  largest = __reduce_max_sync(device::kAllLanes, largest);
  if (bad && largest >= kInfinityBits && lane == 0) device::store_relaxed(bad, 1);
  const float scale = kScaled ? power_of_two_scale(largest) : 1.0f;

  float square = 0;  // of row `thread`
  for (int piece = 0; piece < pieces; ++piece) {
    const int k = piece * Tile::kMostTerms, vectors = vectors_of(piece);
    if (pieces > 1) fetch_row(row, k, width, vectors, tile);
    if (kScaled || out) {
#pragma unroll 4
      for (int v = lane; v < vectors; v += 32) {
        const auto at = tile + Tile::at(device::warp_id(), v);
        device::Vector<T> vector = *at;
        if (kScaled) {
#pragma unroll
          for (int e = 0; e < Tile::kVector; ++e)
            vector.at[e] = device::from_float<T>(device::to_float(vector.at[e]) * scale);
          *at = vector;
        }
        const int to = k + v * Tile::kVector;
        if (out && valid && to < out_width) device::store_vector(out + i * out_width + to, vector);
      }
    }
    if (!inv_norm) continue;
    __syncthreads();
    sum_squares<T, kFold>(tile, vectors, sums);
    __syncthreads();
    if (thread < kKeyRows)
      for (int part = 0; part < (kFold ? Tile::parts(out_width - k) : 1); ++part)
        square += sums[part * kKeyRows + thread];
  }
  if (inv_norm && thread < kKeyRows && first + thread < n) inv_norm[first + thread] = inverse_norm(square);
}

// *bad = 1 when an element of any row is NaN or Inf.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    check_rows_kernel(const T* __restrict__ rows, int64_t stride, int width, int n, int* __restrict__ bad) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + device::warp_id();
  if (i >= n) return;
  unsigned largest = 0;
  for_each_vector(rows + i * stride, width, width, [&](int, const device::Vector<T>& vector) {
#pragma unroll
    for (int e = 0; e < device::kPerVector<T>; ++e) largest = max(largest, magnitude_bits(vector.at[e]));
  });
  if (__any_sync(device::kAllLanes, largest >= kInfinityBits) && device::lane_id() == 0) device::store_relaxed(bad, 1);
}

}  // namespace pact
