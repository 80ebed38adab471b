#include "reduction.h"

namespace pact {
namespace {

Tensor scores_of(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                 const Sequences& sequences, Heads heads, std::optional<double> scale) {
  const Launch launch(op, hidden);
  const TensorRows h(launch, "hidden", hidden), k(launch, "keys", keys), q(launch, "queries", queries);
  Tensor scores = launch.empty({h.n}, ScalarType::Float);
  if (h.n == 0) return scores;

  Workspace workspace;  // for one sequence after the other
  const auto scratch = workspace.reserve_bytes(sequences.most([&](int b) {
    return sequences.length(b) ? euti_workspace_bytes(sequences.length(b), int(heads.size), int(heads.queries)) : 0;
  }));
  workspace.allocate(launch);
  for (int b = 0; b < sequences.count(); ++b) {
    const int begin = sequences.begin(b), n = sequences.length(b);
    if (n == 0) continue;
    launch.check(run_euti(euti_params(launch, h.range(begin, n), k.range(begin, n), q.range(begin, n), heads, scale,
                                      scores.mutable_data_ptr<float>() + begin, nullptr, workspace[scratch])));
  }
  return scores;
}

Tensor euti_scores_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries, std::optional<double> scale) {
  constexpr Operator op = "euti_scores";
  const Heads heads = check_euti_scores_inputs(op, hidden, keys, queries, scale);
  return scores_of(op, hidden, keys, queries, Sequences::one(hidden.size(0)), heads, scale);
}

Tensor euti_scores_packed_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                               const Tensor& cu_seqlens, std::optional<double> scale) {
  constexpr Operator op = kEutiScoresPacked;
  const Heads heads = check_euti_scores_packed_inputs(hidden, keys, queries, cu_seqlens, scale);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  return scores_of(op, hidden, keys, queries, sequences, heads, scale);
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("euti_scores", PACT_BOX("euti_scores", &pact::euti_scores_cuda));
  m.impl("euti_scores_packed", PACT_BOX("euti_scores_packed", &pact::euti_scores_packed_cuda));
}
