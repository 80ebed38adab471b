// Received attention: one query by a pass over the keys, more by Gram tiles. Which rows are chosen only the device
// knows.
#include "../attention/attention.h"
#include "op_support.h"

namespace pact {
namespace {

// Heads as the Gram kernels want them: a copy of the chosen rows, each head padded, or in place where that would change
// nothing.
struct HeadVectors {
  HeadVectors(const Launch& launch, const DeviceRows& rows, const AttentionRows& chosen, int heads, int head_size)
      : rows(rows), head_size(head_size) {
    const int bytes = rows.dtype == Dtype::kFloat32 ? 4 : 2, per_vector = 16 / bytes;
    const bool aligned = reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride % per_vector == 0;
    if (!chosen.index && aligned && head_size % per_vector == 0) return;
    this->head_size = int((int64_t{head_size} + per_vector - 1) / per_vector * per_vector);
    const int64_t width = int64_t{heads} * this->head_size;
    owner.emplace(launch.empty({chosen.count * width * bytes}, ScalarType::Byte));
    launch.check(run_gather_heads(
        {rows, chosen, heads, head_size, owner->mutable_data_ptr(), this->head_size, launch.stream()}));
    this->rows = {owner->const_data_ptr(), rows.dtype, width, int(width)};
  }
  std::optional<Tensor> owner;
  DeviceRows rows;
  int head_size;
};

}  // namespace

static Tensor received_attention_cuda(const Tensor& queries, const Tensor& keys, const std::optional<Tensor>& rows,
                                      std::optional<int64_t> first, bool causal, std::optional<double> scale) {
  const Heads heads = check_received_attention_inputs(queries, keys, rows, first, causal, scale);
  const Launch launch("received_attention", queries);
  const TensorRows q(launch, "queries", queries), k(launch, "keys", keys);
  std::optional<Tensor> index;
  if (rows) index = launch.contiguous(*rows);

  AttentionParams params{};
  params.rows.index = index ? index->const_data_ptr<int64_t>() : nullptr;
  params.rows.count = index ? int(index->size(0)) : q.n;
  params.rows.queries = q.n;
  params.rows.first = first.value_or(int64_t{k.n} - q.n);
  params.rows.causal = causal;
  params.queries = q.rows;
  params.keys = k.rows;
  params.n = k.n;
  params.head_size = int(heads.size);
  params.query_heads = int(heads.queries);
  params.group = int(heads.group);
  params.scale = float(scale.value_or(1 / std::sqrt(double(heads.size))));
  params.stream = launch.stream();
  const bool one = params.rows.count == 1;

  Workspace workspace;
  const auto scratch =
      workspace.reserve_bytes(one ? attention_row_workspace_bytes(k.n, params.head_size, params.query_heads)
                                  : attention_workspace_bytes(k.n, params.rows.count, params.query_heads));
  workspace.allocate(launch);
  Tensor received = launch.empty({k.n}, ScalarType::Float);
  params.workspace = workspace[scratch];
  params.received = received.mutable_data_ptr<float>();
  if (one) {
    launch.check(run_attention_row(params));
    return received;
  }
  const AttentionRows all{nullptr, k.n, k.n, 0, false};
  HeadVectors query_heads(launch, q.rows, params.rows, params.query_heads, params.head_size);
  HeadVectors key_heads(launch, k.rows, all, int(heads.queries / heads.group), params.head_size);
  // Either both are padded to the same size, or neither had to be.
  params.queries = query_heads.rows;
  params.keys = key_heads.rows;
  params.head_size = query_heads.head_size;
  launch.check(run_attention(params));
  return received;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("received_attention", PACT_BOX("received_attention", &pact::received_attention_cuda));
}
