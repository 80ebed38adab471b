#include <algorithm>

#include "../attention/attention.h"
#include "euti.h"
#include "euti_kernel.cuh"

namespace pact {
namespace {

constexpr int64_t kMaxQueryChunks = 256;
constexpr int64_t kMinChunkRows = 32;
constexpr int64_t kLogitsBlocks = 264;  // two for each multiprocessor of an H200

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

// Sizes follow from the shape alone, so that the order of every sum does too; and not from the group, which a workspace
// need not know.
EutiShape euti_shape(int n, int head_size, int query_heads, int group) {
  const int64_t steps = ceil_div(int64_t(n) * ceil_div(query_heads, 8), kLogitsBlocks * kEutiChunkStep);
  const int64_t chunk = std::min<int64_t>(steps * kEutiChunkStep, kEutiLargestChunk);
  return {n, head_size, query_heads / group, group, int(chunk), int(ceil_div(n, chunk))};
}

// Of what one query gives to the tokens.
struct ScorePlan : Plan {
  ScorePlan(int n, int head_size, int query_heads, int group) : shape(euti_shape(n, head_size, query_heads, group)) {
    const size_t heads = query_heads;
    logits = take(n * heads * sizeof(float));
    statistics = take(heads * shape.chunks * sizeof(float2));
  }
  EutiShape shape;
  size_t logits, statistics;
};

struct EutiPlan : ScorePlan {
  EutiPlan(int n, int head_size, int query_heads, int group)
      : ScorePlan(n, head_size, query_heads, group),
        chunk_rows(std::max(kMinChunkRows, ceil_div(n, kMaxQueryChunks))),
        query_chunks(ceil_div(n, chunk_rows)) {
    const size_t columns = size_t(query_heads) * head_size;
    query = take(columns * sizeof(float));
    query_partial = take(query_chunks * columns * sizeof(float));
    norm = take(n * sizeof(double));
  }
  int64_t chunk_rows, query_chunks;
  size_t query, query_partial, norm;
};

template <typename T>
T* at(void* workspace, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace) + offset);
}

bool aligned(const DeviceRows& rows, size_t element_bytes) {
  return reinterpret_cast<size_t>(rows.data) % 16 == 0 && size_t(rows.stride) * element_bytes % 16 == 0;
}

template <typename T>
EutiRows<T> euti_rows(const DeviceRows& rows) {
  return {static_cast<const T*>(rows.data), rows.stride, rows.width};
}

template <typename T, bool kAligned, int kHead, int kGroup>
void launch_logits(const EutiRows<T>& keys, const EutiQuery<T>& query, const EutiShape& shape, float scale,
                   float* logits, float2* statistics, int* bad, cudaStream_t stream) {
  const int64_t blocks = int64_t(shape.chunks) * shape.key_heads * ceil_div(shape.group, kGroup);
  euti_logits_kernel<T, kAligned, kHead, kGroup>
      <<<blocks, kEutiWarps * 32, logits_shared_bytes(kGroup, shape.chunk), stream>>>(keys, query, shape, scale, logits,
                                                                                      statistics, bad);
}

// What the keys receive from the query. `norm` and `bad` may be null.
template <typename T, bool kAligned>
cudaError_t launch_scores(const ScorePlan& plan, void* workspace, const DeviceRows& keys, const EutiQuery<T>& query,
                          const double* norm, float scale, float* scores, int* bad, cudaStream_t stream) {
  const EutiShape& shape = plan.shape;
  float* logits = at<float>(workspace, plan.logits);
  float2* statistics = at<float2>(workspace, plan.statistics);
  const EutiRows<T> rows = euti_rows<T>(keys);
  const auto launch = [&](auto* of) { of(rows, query, shape, scale, logits, statistics, bad, stream); };
  const int group = shape.group, head = shape.head_size;
  if constexpr (kAligned) {
    if (head == 64)
      launch(group == 1   ? launch_logits<T, true, 64, 1>
             : group <= 4 ? launch_logits<T, true, 64, 4>
                          : launch_logits<T, true, 64, 8>);
    else if (head == 128)
      launch(group == 1   ? launch_logits<T, true, 128, 1>
             : group <= 4 ? launch_logits<T, true, 128, 4>
                          : launch_logits<T, true, 128, 8>);
    else
      launch(launch_logits<T, true, 0, 8>);
  } else {
    launch(launch_logits<T, false, 0, 8>);
  }
  euti_score_kernel<T><<<ceil_div(shape.n, kScoreWarps * kScoreTokens), kScoreWarps * 32, kScoreSharedBytes, stream>>>(
      logits, norm, statistics, query, shape, scores);
  return cudaGetLastError();
}

template <typename T, bool kAligned>
cudaError_t launch(const EutiParams& p) {
  const EutiPlan plan(p.n, p.head_size, p.query_heads, p.group);
  float *partial = at<float>(p.workspace, plan.query_partial), *mean = at<float>(p.workspace, plan.query);
  double* norm = at<double>(p.workspace, plan.norm);
  const int columns = p.query_heads * p.head_size;
  const int column_blocks = int(ceil_div(columns, kEutiReadThreads * device::kPerVector<T>));
  const int64_t sum_blocks = column_blocks * plan.query_chunks, norm_blocks = ceil_div(p.n, kEutiReadThreads / 32);
  euti_read_kernel<T, kAligned><<<sum_blocks + norm_blocks, kEutiReadThreads, 0, p.stream>>>(
      euti_rows<T>(p.queries), euti_rows<T>(p.hidden), p.n, int(plan.chunk_rows), column_blocks, int(sum_blocks),
      partial, norm, p.bad);
  euti_query_mean_kernel<<<ceil_div(columns, 32), kQueryMeanWarps * 32, kQueryMeanSharedBytes, p.stream>>>(
      partial, int(plan.query_chunks), columns, p.n, mean);
  return launch_scores<T, kAligned>(plan, p.workspace, p.keys, {mean, nullptr, 0, {}}, norm, p.scale, p.scores, p.bad,
                                    p.stream);
}

template <typename T, bool kAligned>
cudaError_t launch(const AttentionParams& p) {
  const ScorePlan plan(p.n, p.head_size, p.query_heads, p.group);
  const EutiQuery<T> query{nullptr, static_cast<const T*>(p.queries.data), p.queries.stride, p.rows};
  return launch_scores<T, kAligned>(plan, p.workspace, p.keys, query, nullptr, p.scale, p.received, nullptr, p.stream);
}

template <typename T>
bool vectors(const EutiParams& p) {
  const bool whole = p.hidden.width % device::kPerVector<T> == 0 && p.head_size % device::kPerVector<T> == 0;
  return whole && aligned(p.hidden, sizeof(T)) && aligned(p.keys, sizeof(T)) && aligned(p.queries, sizeof(T));
}

template <typename T>
bool vectors(const AttentionParams& p) {
  return p.head_size % device::kPerVector<T> == 0 && aligned(p.keys, sizeof(T)) && aligned(p.queries, sizeof(T));
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

size_t euti_workspace_bytes(int n, int head_size, int query_heads) {
  return EutiPlan(n, head_size, query_heads, 1).bytes;  // whatever the group
}

cudaError_t run_euti(const EutiParams& params) {
  if (params.keys.dtype != params.hidden.dtype || params.queries.dtype != params.hidden.dtype)
    return cudaErrorInvalidValue;
  return launch_for_dtype(params);
}

size_t attention_row_workspace_bytes(int n, int head_size, int query_heads) {
  return ScorePlan(n, head_size, query_heads, 1).bytes;
}

cudaError_t run_attention_row(const AttentionParams& params) { return launch_for_dtype(params); }

}  // namespace pact
