// The whole reduction: importance, split, clustering of the kept tokens, recovery of dropped ones, merging.
#include "reduction.h"

namespace pact {
namespace {

Clusters reduce_one(const ReductionRows& rows, Heads heads, const Config& c) {
  const Reduction reduction(rows, heads, c.scale, kept_count(rows.hidden.n, c.prune_ratio));
  return reduction.recover(reduction.clustering(c.dc, {c.dn, c.gaussian}).cluster(), float_at_least(c.alpha * c.dc));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cpu(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                                      const Tensor& cluster_keys, double prune_ratio, double dc,
                                                      double dn, double alpha, const std::optional<Tensor>& scores,
                                                      std::optional<double> scale, bool gaussian) {
  constexpr Operator op = "reduce";
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_inputs(op, hidden, keys, queries, cluster_keys, scores, config);
  auto [merged, sizes, centers, labels, cu_centers] =
      reduce_sequences({op, hidden, keys, queries, cluster_keys, scores}, Sequences::one(hidden.size(0)),
                       [&](const ReductionRows& rows, int) { return reduce_one(rows, heads, config); });
  return {merged, sizes, centers, labels};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_packed_cpu(const Tensor& hidden, const Tensor& keys,
                                                                     const Tensor& queries, const Tensor& cluster_keys,
                                                                     const Tensor& cu_seqlens, double prune_ratio,
                                                                     double dc, double dn, double alpha,
                                                                     const std::optional<Tensor>& scores,
                                                                     std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReducePacked;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, scores, config);
  return reduce_sequences({op, hidden, keys, queries, cluster_keys, scores},
                          read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden),
                          [&](const ReductionRows& rows, int) { return reduce_one(rows, heads, config); });
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("reduce", PACT_BOX("reduce", &pact::reduce_cpu));
  m.impl("reduce_packed", PACT_BOX("reduce_packed", &pact::reduce_packed_cpu));
}
