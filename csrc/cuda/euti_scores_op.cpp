#include "euti.h"
#include "op_support.h"

namespace pact {

static Tensor euti_scores_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                               std::optional<double> scale) {
  constexpr const char* op = "euti_scores";
  const Heads heads = check_euti_scores_inputs(hidden, keys, queries, scale);
  const Launch launch(op, hidden);
  const TensorRows h(launch, "hidden", hidden), k(launch, "keys", keys), q(launch, "queries", queries);

  Workspace workspace;
  const auto scratch = workspace.reserve_bytes(euti_workspace_bytes(h.n, int(heads.size), int(heads.queries)));
  workspace.allocate(launch);
  Tensor scores = launch.empty({h.n}, ScalarType::Float);

  launch.check(run_euti(
      euti_params(launch, h, k, q, heads, scale, scores.mutable_data_ptr<float>(), nullptr, workspace[scratch])));
  return scores;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("euti_scores", PACT_BOX("euti_scores", &pact::euti_scores_cuda)); }
