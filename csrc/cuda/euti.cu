#include <algorithm>

#include "euti.h"
#include "euti_kernel.cuh"

namespace pact {
namespace {

constexpr int64_t kMaxQueryChunks = 256;
constexpr int64_t kMinChunkRows = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sizes that follow from the shape alone, so that the order of every sum does too, and where things lie in the
// workspace.
struct Plan {
  Plan(int n, int head_size, int query_heads)
      : chunk_rows(std::max(kMinChunkRows, ceil_div(n, kMaxQueryChunks))),
        query_chunks(ceil_div(n, chunk_rows)),
        token_chunks(ceil_div(n, kEutiTokens)) {
    const size_t heads = query_heads, columns = heads * head_size;
    query_mean = take(columns * sizeof(float));
    query_partial = take(query_chunks * columns * sizeof(float));
    logits = take(n * heads * sizeof(float));
    norm = take(n * sizeof(double));
    chunk_max = take(heads * token_chunks * sizeof(float));
    chunk_sum = take(heads * token_chunks * sizeof(float));
    head_max = take(heads * sizeof(float));
    head_factor = take(heads * sizeof(float));
  }
  int64_t chunk_rows, query_chunks, token_chunks;
  size_t query_mean, query_partial, logits, norm, chunk_max, chunk_sum, head_max, head_factor, bytes = 0;

 private:
  size_t take(size_t size) {
    const size_t begin = bytes;
    bytes += (size + 255) / 256 * 256;
    return begin;
  }
};

bool aligned(const DeviceRows& rows, size_t element_bytes) {
  return reinterpret_cast<size_t>(rows.data) % 16 == 0 && size_t(rows.stride) * element_bytes % 16 == 0;
}

// Lanes that share a key head: enough for one vector each, a power of two.
int lanes_of_head(int head_size, int per_vector) {
  int lanes = 1;
  while (lanes < 32 && lanes * per_vector < head_size) lanes *= 2;
  return lanes;
}

template <typename T, bool kAligned>
cudaError_t launch(const EutiParams& p) {
  const Plan plan(p.n, p.head_size, p.query_heads);
  const auto at = [&](size_t offset) { return reinterpret_cast<float*>(static_cast<char*>(p.workspace) + offset); };
  double* norm = reinterpret_cast<double*>(at(plan.norm));
  const int columns = p.query_heads * p.head_size;
  const dim3 sum_grid(ceil_div(columns, kQuerySumThreads * device::kPerVector<T>), plan.query_chunks);
  euti_query_sum_kernel<T, kAligned>
      <<<sum_grid, kQuerySumThreads, 0, p.stream>>>(static_cast<const T*>(p.queries.data), p.queries.stride, columns,
                                                    p.n, plan.chunk_rows, at(plan.query_partial), p.bad);
  euti_query_mean_kernel<<<ceil_div(columns, 32), kQueryMeanWarps * 32, kQueryMeanSharedBytes, p.stream>>>(
      at(plan.query_partial), plan.query_chunks, columns, p.n, at(plan.query_mean));
  const EutiShape shape{p.n,         p.hidden.width,
                        p.head_size, p.query_heads / p.group,
                        p.group,     lanes_of_head(p.head_size, device::kPerVector<T>)};
  euti_logits_kernel<T, kAligned><<<plan.token_chunks, kEutiWarps * 32, 0, p.stream>>>(
      static_cast<const T*>(p.hidden.data), p.hidden.stride, static_cast<const T*>(p.keys.data), p.keys.stride,
      at(plan.query_mean), shape, p.scale, at(plan.logits), norm, at(plan.chunk_max), at(plan.chunk_sum), p.bad);
  euti_softmax_kernel<<<p.query_heads, 32, 0, p.stream>>>(at(plan.chunk_max), at(plan.chunk_sum), plan.token_chunks,
                                                          at(plan.head_max), at(plan.head_factor));
  euti_score_kernel<<<ceil_div(p.n, kEutiWarps), kEutiWarps * 32, 0, p.stream>>>(
      at(plan.logits), norm, at(plan.head_max), at(plan.head_factor), p.n, p.query_heads, p.scores);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch(const EutiParams& p) {
  const bool whole = p.hidden.width % device::kPerVector<T> == 0 && p.head_size % device::kPerVector<T> == 0;
  const bool vectors =
      whole && aligned(p.hidden, sizeof(T)) && aligned(p.keys, sizeof(T)) && aligned(p.queries, sizeof(T));
  return vectors ? launch<T, true>(p) : launch<T, false>(p);
}

}  // namespace

size_t euti_workspace_bytes(int n, int head_size, int query_heads) { return Plan(n, head_size, query_heads).bytes; }

cudaError_t run_euti(const EutiParams& params) {
  if (params.keys.dtype != params.hidden.dtype || params.queries.dtype != params.hidden.dtype)
    return cudaErrorInvalidValue;
  switch (params.hidden.dtype) {
    case Dtype::kFloat32:
      return launch<float>(params);
    case Dtype::kFloat16:
      return launch<device::float16>(params);
    case Dtype::kBFloat16:
      return launch<device::bfloat16>(params);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pact
