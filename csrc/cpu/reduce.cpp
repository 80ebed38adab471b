// The whole reduction: importance, split, clustering of the kept tokens, recovery of dropped ones, merging.
#include "reduction.h"

namespace pact {

static std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cpu(const Tensor& hidden, const Tensor& keys,
                                                             const Tensor& queries, const Tensor& cluster_keys,
                                                             double prune_ratio, double dc, double dn, double alpha,
                                                             const std::optional<Tensor>& scores,
                                                             std::optional<double> scale, bool gaussian) {
  constexpr const char* op = "reduce";
  const Heads heads = check_reduce_inputs(op, hidden, keys, queries, cluster_keys, scores,
                                          {prune_ratio, dc, dn, alpha, scale, gaussian});
  const Reduction reduction(op, heads, hidden, keys, queries, cluster_keys, scores, scale,
                            kept_count(hidden.size(0), prune_ratio));
  return reduction.merge(reduction.clustering(dc, {dn, gaussian}).cluster(), float_at_least(alpha * dc));
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("reduce", PACT_BOX("reduce", &pact::reduce_cpu)); }
