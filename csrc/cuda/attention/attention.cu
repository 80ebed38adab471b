#include <cmath>

#include "../gram/gram_launch.h"
#include "attention.h"
#include "attention_kernel.cuh"

namespace pact {
namespace {

// The largest power of two by which a sum of that many weights stays below 2^62.
double unit_of(int64_t weights) { return std::ldexp(1.0, 60 - std::ilogb(static_cast<double>(weights))); }

size_t statistics_bytes(int count, int query_heads) {
  return sizeof(float2) * static_cast<size_t>(count) * static_cast<size_t>(query_heads);
}

template <typename T>
HeadRows<T> head_rows(const DeviceRows& rows, int head_size, int count) {
  DeviceRows head = rows;
  head.width = head_size;
  return {gram_rows<T>(head, count), head_size / device::kPerVector<T>};
}

template <typename T, bool kFold>
cudaError_t launch(const AttentionParams& p, float2* statistics, unsigned long long* columns, double unit) {
  const int count = p.rows.count, key_tiles = gram_tiles(p.n);
  const HeadRows<T> queries = head_rows<T>(p.queries, p.head_size, count);
  const HeadRows<T> keys = head_rows<T>(p.keys, p.head_size, p.n);
  const int64_t row_blocks = int64_t{gram_tiles(count)} * p.query_heads;
  const cudaError_t error = launch_gram(attention_rows_kernel<T, kFold>, row_blocks, kAttentionRowsSharedBytes,
                                        p.stream, queries, keys, p.rows, p.query_heads, p.group, p.scale, statistics);
  if (error != cudaSuccess) return error;
  const int64_t slices = (gram_tiles(count) + kSliceTiles - 1) / kSliceTiles;
  return launch_gram(attention_columns_kernel<T, kFold>, slices * key_tiles * p.query_heads,
                     kAttentionColumnsSharedBytes, p.stream, queries, keys, p.rows, p.query_heads, p.group, key_tiles,
                     p.scale, static_cast<float>(unit), statistics, columns);
}

template <typename T>
void gather(const GatherHeadsParams& p) {
  constexpr int kPerBlock = kRowThreads / 32;
  const int64_t warps = int64_t{p.rows.count} * p.heads;
  gather_heads_kernel<<<static_cast<unsigned>((warps + kPerBlock - 1) / kPerBlock), kRowThreads, 0, p.stream>>>(
      static_cast<const T*>(p.from.data), p.from.stride, p.rows, p.heads, p.head_size, static_cast<T*>(p.out),
      p.out_size);
}

}  // namespace

size_t attention_workspace_bytes(int n, int count, int query_heads) {
  return sizeof(unsigned long long) * static_cast<size_t>(n) + statistics_bytes(count, query_heads);
}

cudaError_t run_attention(const AttentionParams& p) {
  unsigned long long* columns = static_cast<unsigned long long*>(p.workspace);
  float2* statistics = reinterpret_cast<float2*>(columns + p.n);
  const int64_t weights = int64_t{p.rows.count} * p.query_heads;
  const double unit = unit_of(weights);
  cudaError_t error = cudaMemsetAsync(columns, 0, sizeof(*columns) * static_cast<size_t>(p.n), p.stream);
  if (error != cudaSuccess) return error;
  DeviceRows head = p.keys;
  head.width = p.head_size;
  error = with_gram_type(head, [&](auto element, auto fold) {
    return launch<decltype(element), decltype(fold)::value>(p, statistics, columns, unit);
  });
  if (error != cudaSuccess) return error;
  const unsigned blocks = static_cast<unsigned>((int64_t{p.n} + kGramThreads - 1) / kGramThreads);
  attention_to_float_kernel<<<blocks, kGramThreads, 0, p.stream>>>(
      columns, p.n, 1 / (unit * static_cast<double>(weights)), p.received);
  return cudaGetLastError();
}

cudaError_t run_gather_heads(const GatherHeadsParams& p) {
  switch (p.from.dtype) {
    case Dtype::kFloat32:
      gather<float>(p);
      break;
    case Dtype::kFloat16:
      gather<device::float16>(p);
      break;
    case Dtype::kBFloat16:
      gather<device::bfloat16>(p);
      break;
  }
  return cudaGetLastError();
}

}  // namespace pact
