#include <algorithm>

#include "attention.h"
#include "euti.h"
#include "euti_kernel.cuh"
#include "query_row_kernel.cuh"

namespace pact {
namespace {

constexpr int64_t kMaxQueryChunks = 256;
constexpr int64_t kMinChunkRows = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where things lie in the workspace.
struct Plan {
  size_t take(size_t size) {
    const size_t begin = bytes;
    bytes += (size + 255) / 256 * 256;
    return begin;
  }
  size_t bytes = 0;
};

// Of what one query gives to the tokens.
struct ScorePlan : Plan {
  ScorePlan(int n, int head_size, int query_heads) : token_chunks(ceil_div(n, kEutiTokens)) {
    const size_t heads = query_heads;
    query = take(heads * head_size * sizeof(float));
    logits = take(n * heads * sizeof(float));
    chunk_max = take(heads * token_chunks * sizeof(float));
    chunk_sum = take(heads * token_chunks * sizeof(float));
    head_max = take(heads * sizeof(float));
    head_factor = take(heads * sizeof(float));
  }
  int64_t token_chunks;
  size_t query, logits, chunk_max, chunk_sum, head_max, head_factor;
};

// Sizes that follow from the shape alone, so that the order of every sum does too.
struct EutiPlan : ScorePlan {
  EutiPlan(int n, int head_size, int query_heads)
      : ScorePlan(n, head_size, query_heads),
        chunk_rows(std::max(kMinChunkRows, ceil_div(n, kMaxQueryChunks))),
        query_chunks(ceil_div(n, chunk_rows)) {
    query_partial = take(query_chunks * query_heads * head_size * sizeof(float));
    norm = take(n * sizeof(double));
  }
  int64_t chunk_rows, query_chunks;
  size_t query_partial, norm;
};

struct RowPlan : ScorePlan {
  RowPlan(int n, int head_size, int query_heads) : ScorePlan(n, head_size, query_heads) { visible = take(sizeof(int)); }
  size_t visible;
};

template <typename T>
T* at(void* workspace, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace) + offset);
}

bool aligned(const DeviceRows& rows, size_t element_bytes) {
  return reinterpret_cast<size_t>(rows.data) % 16 == 0 && size_t(rows.stride) * element_bytes % 16 == 0;
}

// Lanes that share a key head: enough for one vector each, a power of two.
int lanes_of_head(int head_size, int per_vector) {
  int lanes = 1;
  while (lanes < 32 && lanes * per_vector < head_size) lanes *= 2;
  return lanes;
}

// What the keys receive from the query in the workspace. `hidden` and `norm` may be null, and `visible`.
template <typename T, bool kAligned>
cudaError_t launch_scores(const ScorePlan& plan, void* workspace, const DeviceRows& hidden, double* norm,
                          const DeviceRows& keys, int n, int head_size, int query_heads, int group, const int* visible,
                          float scale, float* scores, int* bad, cudaStream_t stream) {
  const EutiShape shape{
      n, hidden.width, head_size, query_heads / group, group, lanes_of_head(head_size, device::kPerVector<T>)};
  float* logits = at<float>(workspace, plan.logits);
  float *chunk_max = at<float>(workspace, plan.chunk_max), *chunk_sum = at<float>(workspace, plan.chunk_sum);
  float *head_max = at<float>(workspace, plan.head_max), *head_factor = at<float>(workspace, plan.head_factor);
  euti_logits_kernel<T, kAligned><<<plan.token_chunks, kEutiWarps * 32, 0, stream>>>(
      static_cast<const T*>(hidden.data), hidden.stride, static_cast<const T*>(keys.data), keys.stride,
      at<float>(workspace, plan.query), shape, visible, scale, logits, norm, chunk_max, chunk_sum, bad);
  euti_softmax_kernel<<<query_heads, 32, 0, stream>>>(chunk_max, chunk_sum, plan.token_chunks, head_max, head_factor);
  euti_score_kernel<<<ceil_div(n, kEutiWarps), kEutiWarps * 32, 0, stream>>>(logits, norm, head_max, head_factor, n,
                                                                             query_heads, visible, scores);
  return cudaGetLastError();
}

template <typename T, bool kAligned>
cudaError_t launch(const EutiParams& p) {
  const EutiPlan plan(p.n, p.head_size, p.query_heads);
  float* partial = at<float>(p.workspace, plan.query_partial);
  const int columns = p.query_heads * p.head_size;
  const dim3 sum_grid(ceil_div(columns, kQuerySumThreads * device::kPerVector<T>), plan.query_chunks);
  euti_query_sum_kernel<T, kAligned><<<sum_grid, kQuerySumThreads, 0, p.stream>>>(
      static_cast<const T*>(p.queries.data), p.queries.stride, columns, p.n, plan.chunk_rows, partial, p.bad);
  euti_query_mean_kernel<<<ceil_div(columns, 32), kQueryMeanWarps * 32, kQueryMeanSharedBytes, p.stream>>>(
      partial, plan.query_chunks, columns, p.n, at<float>(p.workspace, plan.query));
  return launch_scores<T, kAligned>(plan, p.workspace, p.hidden, at<double>(p.workspace, plan.norm), p.keys, p.n,
                                    p.head_size, p.query_heads, p.group, nullptr, p.scale, p.scores, p.bad, p.stream);
}

template <typename T, bool kAligned>
cudaError_t launch(const AttentionParams& p) {
  const RowPlan plan(p.n, p.head_size, p.query_heads);
  const int columns = p.query_heads * p.head_size;
  int* visible = at<int>(p.workspace, plan.visible);
  query_row_kernel<T><<<ceil_div(columns, kQueryRowThreads), kQueryRowThreads, 0, p.stream>>>(
      static_cast<const T*>(p.queries.data), p.queries.stride, columns, p.rows, p.n, at<float>(p.workspace, plan.query),
      visible);
  return launch_scores<T, kAligned>(plan, p.workspace, {}, nullptr, p.keys, p.n, p.head_size, p.query_heads, p.group,
                                    visible, p.scale, p.received, nullptr, p.stream);
}

template <typename T>
bool vectors(const EutiParams& p) {
  const bool whole = p.hidden.width % device::kPerVector<T> == 0 && p.head_size % device::kPerVector<T> == 0;
  return whole && aligned(p.hidden, sizeof(T)) && aligned(p.keys, sizeof(T)) && aligned(p.queries, sizeof(T));
}

template <typename T>
bool vectors(const AttentionParams& p) {
  return p.head_size % device::kPerVector<T> == 0 && aligned(p.keys, sizeof(T));
}

template <typename T, typename Params>
cudaError_t launch(const Params& p) {
  return vectors<T>(p) ? launch<T, true>(p) : launch<T, false>(p);
}

template <typename Params>
cudaError_t launch_for_dtype(const Params& p) {
  switch (p.keys.dtype) {
    case Dtype::kFloat32:
      return launch<float>(p);
    case Dtype::kFloat16:
      return launch<device::float16>(p);
    case Dtype::kBFloat16:
      return launch<device::bfloat16>(p);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

size_t euti_workspace_bytes(int n, int head_size, int query_heads) { return EutiPlan(n, head_size, query_heads).bytes; }

cudaError_t run_euti(const EutiParams& params) {
  if (params.keys.dtype != params.hidden.dtype || params.queries.dtype != params.hidden.dtype)
    return cudaErrorInvalidValue;
  return launch_for_dtype(params);
}

size_t attention_row_workspace_bytes(int n, int head_size, int query_heads) {
  return RowPlan(n, head_size, query_heads).bytes;
}

cudaError_t run_attention_row(const AttentionParams& params) { return launch_for_dtype(params); }

}  // namespace pact
