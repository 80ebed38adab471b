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
//
// Most tiles are seen as a whole and have no large logits: five instructions per pair in the first pass, four in the
// second. Only near the diagonal are pairs masked. A row whose largest logit is far from 0 is exponentiated in another
// way, one that is exact there, wherever its pairs lie: equal keys have equal weights.
#pragma once

#include "../device/math.cuh"
#include "../gram/gram.cuh"
#include "../rows/row_vectors.cuh"
#include "attention_rows.cuh"

namespace pact {

constexpr int kSliceTiles = 8;  // of queries, for one block of attention_columns_kernel
constexpr int kSliceRows = kSliceTiles * kGramTile;
template <bool kFold>
using AttentionWarps = Warps<1, kFold>;
constexpr unsigned kVisibleOffset = kStagesBytes<AttentionWarps<true>>;  // [query], a tile or a slice
static_assert(kVisibleOffset == kStagesBytes<AttentionWarps<false>>);
constexpr unsigned kRowPartsOffset = kVisibleOffset + kGramTile * sizeof(int);  // [query][warp]
constexpr unsigned kAttentionRowsSharedBytes = kRowPartsOffset + kGramTile * 4 * sizeof(float2);
constexpr unsigned kStatisticsOffset = kVisibleOffset + kSliceRows * sizeof(int);        // [query of the slice]
constexpr unsigned kColumnSumsOffset = kStatisticsOffset + kSliceRows * sizeof(float2);  // [key 128]
constexpr unsigned kAttentionColumnsSharedBytes = kColumnSumsOffset + kGramTile * sizeof(unsigned long long);
constexpr unsigned long long kNanSum = 1ull << 63;  // sums stay below 2^62
constexpr float kLog2E = 1.442695041f, kFarLogit = 0x1p20f;

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

// Where the thread's grid of dot products lies in the tile.
__device__ __forceinline__ int gram_row(int r) { return AttentionWarps<true>::place(0).row(r); }
__device__ __forceinline__ int gram_column(int c) { return AttentionWarps<true>::place(0).column(c); }

// How many keys `count` queries from `first` on see, to shared memory.
__device__ __forceinline__ void stage_visible(const AttentionRows& rows, int64_t first, int count, int n) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, count);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kGramThreads)
    visible[i] = visible_keys(rows, chosen_row(rows, first + i), n);
}

// What the queries of a tile see: any of them, and all of them.
struct VisibleRange {
  int most, least;
};
__device__ __forceinline__ VisibleRange visible_range(device::Shared<int> visible) {
  VisibleRange range{0, 0x7fffffff};
#pragma unroll
  for (int i = 0; i < kGramTile; i += 32) {
    const int own = visible[i + device::lane_id()];
    range.most = max(range.most, own);
    range.least = min(range.least, own);
  }
  return {__reduce_max_sync(device::kAllLanes, range.most), __reduce_min_sync(device::kAllLanes, range.least)};
}

__device__ __forceinline__ bool is_far(float largest) { return fabsf(largest) >= kFarLogit; }
// exp(logit - largest), `largest` not far and at least as large; but for a factor, as the product with `largest` is
// rounded: whatever is compared with these, such as their sums, must be so by rescaled().
__device__ __forceinline__ float near_exp(float logit, float largest) {
  return device::exp2_approx(fmaf(logit, kLog2E, -(largest * kLog2E)));
}
// The same for any logits.
__device__ __forceinline__ float far_exp(float logit, float largest) {
  return device::exp2_approx((bounded_logit(logit) - largest) * kLog2E);
}
// What turns a sum of exp(logit - before) into one of exp(logit - now), now >= before.
__device__ __forceinline__ float rescaled(float before, float now) {
  if (is_far(now))
    return is_far(before) ? far_exp(before, now) : device::exp2_approx(fmaf(-now, kLog2E, before * kLog2E));
  return is_far(before) ? near_exp(before, now) : device::exp2_approx(before * kLog2E - now * kLog2E);
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float added(float a, float b) { return a + b; }

// What a lane knows of the rows that it owns, one of each four, over the columns of its warp.
struct RowStatistics {
  float largest[2] = {-kLargestLogit, -kLargestLogit}, sum[2] = {};

  // Adds a tile, whose products become logits. `visible`: of its rows; kAll: all see the whole tile.
  template <bool kAll>
  __device__ __forceinline__ void add(GramPanel<8>& dot, float scale, device::Shared<int> visible, int key_first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int left[4];
      float best[4], total[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = half * 4 + i;
        left[i] = kAll ? kGramTile : visible[gram_row(r)] - key_first;
        best[i] = -kLargestLogit;
        total[i] = 0;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const float logit = dot.at(r, c) * scale;
          dot.at(r, c) = logit;
          best[i] = larger(best[i], kAll || gram_column(c) < left[i] ? logit : -kLargestLogit);
        }
      }
      const float before = largest[half];
      largest[half] = larger(before, fminf(combine_rows(best, larger), kLargestLogit));
      const auto add_exponentials = [&](auto exponential) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float row_largest = __shfl_sync(device::kAllLanes, largest[half], device::lane_id() / 4 * 4 + i);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const float e = exponential(dot.at(half * 4 + i, c), row_largest);
            total[i] += kAll || gram_column(c) < left[i] ? e : 0;
          }
        }
      };
      if (__any_sync(device::kAllLanes, is_far(largest[half])))
        add_exponentials(
            [](float logit, float row) { return is_far(row) ? far_exp(logit, row) : near_exp(logit, row); });
      else
        add_exponentials(near_exp);
      sum[half] = sum[half] * rescaled(before, largest[half]) + combine_rows(total, added);
    }
  }
};

// statistics [heads][rows.count]: the largest logit, 1 / sum of exp(logit - largest).
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, AttentionWarps<kFold>::kBlocksPerSm)
    attention_rows_kernel(HeadRows<T> queries, HeadRows<T> keys, AttentionRows rows, int heads, int group, float scale,
                          float2* __restrict__ statistics) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kGramTile);
  const int head = static_cast<int>(blockIdx.x) % heads, n = keys.rows.count;
  const int tile =
      static_cast<int>(gridDim.x - 1 - blockIdx.x) / heads;  // the last queries see most: the longest first
  const int first = tile * kGramTile;
  const GramRows<T> q = queries.head(heads - 1 - head), k = keys.head((heads - 1 - head) / group);
  stage_visible(rows, first, kGramTile, n);
  __syncthreads();
  const VisibleRange seen = visible_range(visible);

  RowStatistics own;
  for (int key_first = 0; key_first < seen.most; key_first += kGramTile) {
    __syncthreads();  // all are done with the stages of the tile before
    GramPanel<8> dot[1];
    gram<T, AttentionWarps<kFold>>(q, first, k, key_first, dot);
    if (key_first + kGramTile <= seen.least)
      own.template add<true>(dot[0], scale, visible, key_first);
    else
      own.template add<false>(dot[0], scale, visible, key_first);
  }

  const device::Shared<float2> parts = device::shared<float2>(kRowPartsOffset, kGramTile * 4);
#pragma unroll
  for (int half = 0; half < 2; ++half)
    parts[gram_row(half * 4 + device::lane_id() % 4) * 4 + AttentionWarps<kFold>::place(0).word()] =
        make_float2(own.largest[half], own.sum[half]);
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kGramTile || i >= rows.count - first) return;
  float row_largest = -kLargestLogit, row_sum = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) row_largest = larger(row_largest, float2(parts[i * 4 + w]).x);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float2 part = parts[i * 4 + w];
    row_sum += part.y * rescaled(part.x, row_largest);
  }
  statistics[int64_t{heads - 1 - head} * rows.count + first + i] = make_float2(row_largest, 1 / row_sum);
}

// Adds the weights of a tile's rows to its columns. kPlain: all rows see the whole tile, and none has far logits.
template <bool kPlain>
__device__ __forceinline__ void add_weights(GramPanel<8>& dot, float scale, device::Shared<int> visible,
                                            device::Shared<float2> row_statistics, int key_first,
                                            float (&weight)[kColumns]) {
#pragma unroll
  for (int r = 0; r < GramPanel<8>::kRows; ++r) {
    const float2 row = row_statistics[gram_row(r)];
    const int left = kPlain ? kGramTile : visible[gram_row(r)] - key_first;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const float logit = dot.at(r, c) * scale;
      const float e = kPlain || !is_far(row.x) ? near_exp(logit, row.x) : far_exp(logit, row.x);
      weight[c] = kPlain || gram_column(c) < left ? fmaf(e, row.y, weight[c]) : weight[c];
    }
  }
}

// columns [n], zero before: sums of weights times `unit`, a power of two.
template <typename T, bool kFold>
__global__ void __launch_bounds__(kGramThreads, AttentionWarps<kFold>::kBlocksPerSm)
    attention_columns_kernel(HeadRows<T> queries, HeadRows<T> keys, AttentionRows rows, int heads, int group,
                             int key_tiles, float scale, float unit, const float2* __restrict__ statistics,
                             unsigned long long* __restrict__ columns) {
  const device::Shared<int> visible = device::shared<int>(kVisibleOffset, kSliceRows);
  const device::Shared<float2> row_statistics = device::shared<float2>(kStatisticsOffset, kSliceRows);
  const device::Shared<unsigned long long> sums = device::shared<unsigned long long>(kColumnSumsOffset, kGramTile);
  const int head = static_cast<int>(blockIdx.x) % heads, n = keys.rows.count;
  const int key_first = static_cast<int>(blockIdx.x) / heads % key_tiles * kGramTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) / heads / key_tiles * kSliceRows;
  const int here = static_cast<int>(min(int64_t{kSliceRows}, rows.count - begin));
  const GramRows<T> q = queries.head(head), k = keys.head(head / group);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGramTile) sums[thread] = 0ull;
  stage_visible(rows, begin, kSliceRows, n);
  for (int i = thread; i < kSliceRows; i += kGramThreads)
    row_statistics[i] = i < here ? statistics[int64_t{head} * rows.count + begin + i] : make_float2(0, 0);

  for (int first = 0; first < here; first += kGramTile) {
    __syncthreads();  // all are done with the tile before, and the slice is staged
    const VisibleRange seen = visible_range(visible + first);
    if (seen.most <= key_first) continue;
    bool far = false;
#pragma unroll
    for (int i = 0; i < kGramTile; i += 32)
      far = far || is_far(float2(row_statistics[first + i + device::lane_id()]).x);
    GramPanel<8> dot[1];
    gram<T, AttentionWarps<kFold>>(q, static_cast<int>(begin) + first, k, key_first, dot);
    float weight[kColumns] = {};
    if (key_first + kGramTile <= seen.least && !__any_sync(device::kAllLanes, far))
      add_weights<true>(dot[0], scale, visible + first, row_statistics + first, key_first, weight);
    else
      add_weights<false>(dot[0], scale, visible + first, row_statistics + first, key_first, weight);
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
