// Received attention of many queries: Gram tiles of 128 queries x 128 keys of one head, made twice.
//
//          keys ->          1. attention_rows_kernel: a block takes a tile of queries and a head along the keys that
//   queries A . . .            they see, and leaves the largest logit and 1 / sum of exponentials of each query.
//      |    A A . .         2. attention_columns_kernel: a block takes a tile of keys and a head down a slice of the
//      v    A A A .            queries that see them, and adds their weights up.
//
// Two launches that depend on each other, and two small ones around. Each pass reads a tile of rows once and streams
// the other side from L2; what is written is 8 bytes per query and head, then one 64-bit atomic per key and block. A
// block sums the weights of a key in an order of its own, always the same; what blocks add is integers, so that their
// order cannot be seen. A sum that is NaN is its highest bit.
#pragma once

#include "attention_rows.cuh"
#include "gram.cuh"
#include "row_vectors.cuh"

namespace pact {

constexpr int kSliceTiles = 8;                   // of queries, for one block of attention_columns_kernel
constexpr unsigned kVisibleOffset = kGramBytes;  // [query 128]
constexpr unsigned kStatisticsOffset = kVisibleOffset + kGramTile * sizeof(int);
constexpr unsigned kAttentionRowsSharedBytes = kStatisticsOffset + kGramTile * 4 * sizeof(float2);  // [query][warp]
constexpr unsigned kColumnSumsOffset = kStatisticsOffset + kGramTile * sizeof(float2);              // [key 128]
constexpr unsigned kAttentionColumnsSharedBytes = kColumnSumsOffset + kGramTile * sizeof(unsigned long long);
constexpr unsigned long long kNanSum = 1ull << 63;  // sums stay below 2^62

// One side of attention: head h of row i begins h * head_stride vectors behind the row.
template <typename T>
struct HeadRows {
  GramRows<T> rows;
  int64_t head_stride;
  __device__ __forceinline__ GramRows<T> head(int h) const {
    GramRows<T> own = rows;
    own.data += h * head_stride;
    return own;
  }
};

// How many keys queries [first, +128) see, to shared memory.
__device__ __forceinline__ void stage_visible(const AttentionRows& rows, int first, int n) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kGramTile);
  const int i = static_cast<int>(threadIdx.x);
  if (i < kGramTile) visible[i] = visible_keys(rows, chosen_row(rows, int64_t{first} + i), n);
}

__device__ __forceinline__ int most_visible() {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kGramTile);
  int most = 0;
  for (int i = device::lane_id(); i < kGramTile; i += 32) most = max(most, int(visible[i]));
  return __reduce_max_sync(device::kAllLanes, most);
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float added(float a, float b) { return a + b; }

// statistics [heads][rows.count]: the largest logit, 1 / sum of exp(logit - largest).
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, gram_blocks_per_sm(kFold))
    attention_rows_kernel(HeadRows<T> queries, HeadRows<T> keys, AttentionRows rows, int heads, int group, float scale,
                          float2* __restrict__ statistics) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kGramTile);
  const int head = static_cast<int>(blockIdx.x) % heads, n = keys.rows.count;
  const int tile =
      static_cast<int>(gridDim.x - 1 - blockIdx.x) / heads;  // the last queries see most: the longest first
  const int first = tile * kGramTile;
  const GramRows<T> q = queries.head(heads - 1 - head), k = keys.head((heads - 1 - head) / group);
  stage_visible(rows, first, n);
  __syncthreads();
  const int end = most_visible();

  // Of the row that this lane owns of each four, over the columns of its warp.
  float largest[2] = {-kLargestLogit, -kLargestLogit}, sum[2] = {};
  for (int key_first = 0; key_first < end; key_first += kGramTile) {
    __syncthreads();  // all are done with the stages of the tile before
    GramTile dot;
    gram<T, kFold>(q, first, k, key_first, dot);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int left[4];
      float best[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = half * 4 + i;
        left[i] = visible[gram_row(r)] - key_first;
        best[i] = -kLargestLogit;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          dot.at(r, c) = bounded_logit(dot.at(r, c) * scale);
          if (gram_column(c) < left[i]) best[i] = larger(best[i], dot.at(r, c));
        }
      }
      const float before = largest[half];
      largest[half] = larger(before, combine_rows(best, larger));
      float total[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float row_largest = __shfl_sync(device::kAllLanes, largest[half], device::lane_id() / 4 * 4 + i);
        total[i] = 0;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const float e = expf(dot.at(half * 4 + i, c) - row_largest);
          total[i] += gram_column(c) < left[i] ? e : 0;
        }
      }
      sum[half] = sum[half] * expf(before - largest[half]) + combine_rows(total, added);
    }
  }

  const device::Shared<float2> parts = device::shared<float2>(kStatisticsOffset, kGramTile * 4);
#pragma unroll
  for (int half = 0; half < 2; ++half)
    parts[gram_row(half * 4 + device::lane_id() % 4) * 4 + warp_column() / 32] = make_float2(largest[half], sum[half]);
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kGramTile || i >= rows.count - first) return;
  float row_largest = -kLargestLogit, row_sum = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) row_largest = larger(row_largest, float2(parts[i * 4 + w]).x);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float2 part = parts[i * 4 + w];
    row_sum += part.y * expf(part.x - row_largest);
  }
  statistics[int64_t{heads - 1 - head} * rows.count + first + i] = make_float2(row_largest, 1 / row_sum);
}

// columns [n], zero before: sums of weights times `unit`, a power of two.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, gram_blocks_per_sm(kFold))
    attention_columns_kernel(HeadRows<T> queries, HeadRows<T> keys, AttentionRows rows, int heads, int group,
                             int key_tiles, float scale, float unit, const float2* __restrict__ statistics,
                             unsigned long long* __restrict__ columns) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kGramTile);
  const device::Shared<float2> row_statistics = device::shared<float2>(kStatisticsOffset, kGramTile);
  const device::Shared<unsigned long long> sums = device::shared<unsigned long long>(kColumnSumsOffset, kGramTile);
  const int head = static_cast<int>(blockIdx.x) % heads, n = keys.rows.count;
  const int key_first = static_cast<int>(blockIdx.x) / heads % key_tiles * kGramTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) / heads / key_tiles * kSliceTiles * kGramTile;
  const int64_t end = min(begin + kSliceTiles * kGramTile, static_cast<int64_t>(rows.count));
  const GramRows<T> q = queries.head(head), k = keys.head(head / group);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGramTile) sums[thread] = 0ull;

  for (int64_t first = begin; first < end; first += kGramTile) {
    __syncthreads();  // all are done with the tile before
    stage_visible(rows, static_cast<int>(first), n);
    if (thread < kGramTile && thread < end - first)
      row_statistics[thread] = statistics[int64_t{head} * rows.count + first + thread];
    else if (thread < kGramTile)
      row_statistics[thread] = make_float2(0, 0);
    __syncthreads();
    if (most_visible() <= key_first) continue;
    GramTile dot;
    gram<T, kFold>(q, static_cast<int>(first), k, key_first, dot);
    float weight[kColumns] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float2 row = row_statistics[gram_row(r)];
      const int left = visible[gram_row(r)] - key_first;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float w = expf(bounded_logit(dot.at(r, c) * scale) - row.x) * row.y;
        weight[c] += gram_column(c) < left ? w : 0;
      }
    }
    const float sum = combine_columns(weight, added);
    const int column = gram_column(device::lane_id() / 4);
    if (isnan(sum))
      atomicOr(&sums[column], kNanSum);
    else
      atomicAdd(&sums[column], static_cast<unsigned long long>(sum * unit));
  }
  __syncthreads();
  if (thread >= kGramTile || thread >= n - key_first) return;
  const unsigned long long sum = sums[thread];
  if (sum >= kNanSum)
    atomicOr(columns + key_first + thread, kNanSum);
  else if (sum > 0)
    atomicAdd(columns + key_first + thread, sum);
}

__global__ void __launch_bounds__(kGramThreads)
    attention_to_float_kernel(const unsigned long long* __restrict__ columns, int n, double factor,
                              float* __restrict__ received) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= n) return;
  received[j] = columns[j] >= kNanSum ? __uint_as_float(0x7fc00000)
                                      : static_cast<float>(static_cast<double>(columns[j]) * factor);
}

// A warp per row and head.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    gather_heads_kernel(const T* __restrict__ from, int64_t stride, AttentionRows rows, int heads, int head_size,
                        T* __restrict__ out, int out_size) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + device::warp_id();
  if (i >= static_cast<int64_t>(rows.count) * heads) return;
  const int64_t row = chosen_row(rows, i / heads);
  const T* head = row < 0 ? from : from + row * stride + i % heads * head_size;
  for_each_vector(head, row < 0 ? 0 : head_size, out_size, [&](int k, const device::Vector<T>& vector) {
    device::store_vector(out + i * out_size + k, vector);
  });
}

}  // namespace pact
