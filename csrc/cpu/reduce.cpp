// The whole reduction: importance, split, clustering of the kept tokens, recovery of dropped ones, merging.
#include <numeric>

#include "stages.h"

namespace pact {
namespace {

// Token indices, each list ascending: the m largest scores, ties by lower index, and the rest. Scores may be null when
// all are kept.
struct Split {
  Vector<int64_t> kept, dropped;
};

Split split(const float* scores, int64_t n, int64_t m) {
  Vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (m < n)
    std::nth_element(order.begin(), order.begin() + m, order.end(),
                     [&](int64_t a, int64_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  std::sort(order.begin(), order.begin() + m);
  std::sort(order.begin() + m, order.end());
  return {{order.begin(), order.begin() + m}, {order.begin() + m, order.end()}};
}

}  // namespace

static std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cpu(const Tensor& hidden, const Tensor& keys,
                                                             const Tensor& queries, const Tensor& cluster_keys,
                                                             double prune_ratio, double dc, double dn, double alpha,
                                                             const std::optional<Tensor>& scores,
                                                             std::optional<double> scale, bool gaussian) {
  constexpr const char* op = "reduce";
  const Argument cluster_arg{op, "cluster_keys"}, score_arg{op, "scores"};
  const Heads heads =
      check_reduce_inputs(op, hidden, keys, queries, cluster_keys, scores, {prune_ratio, dc, dn, alpha, scale, gaussian});
  const InputRows h({op, "hidden"}, hidden), k({op, "keys"}, keys), q({op, "queries"}, queries);
  const int64_t n = h.n, m = kept_count(n, prune_ratio);
  // Scores that are given, or that would choose nothing, leave the inputs unread: they are checked all the same.
  std::optional<Tensor> importances;
  if (scores || m == n)
    for (const InputRows* input : {&h, &k, &q}) input->check_finite();
  const FiniteRows u(cluster_arg, cluster_keys);
  if (scores)
    importances = FiniteRows(score_arg, *scores).owner;
  else if (m < n)
    importances = importance(h, k, q, heads, scale);
  const Split tokens = split(importances ? importances->const_data_ptr<float>() : nullptr, n, m);

  const Clusters clusters = cluster(u.rows, tokens.kept.data(), int64_t(tokens.kept.size()), dc, {dn, gaussian});
  const int64_t c = int64_t(clusters.centers.size());
  Vector<int64_t> centers(c), labels(n, -1);
  for (int64_t p = 0; p < c; ++p) centers[p] = tokens.kept[clusters.centers[p]];
  for (size_t i = 0; i < tokens.kept.size(); ++i) labels[tokens.kept[i]] = clusters.labels[i];

  const int64_t dropped = int64_t(tokens.dropped.size());
  const float limit = float_at_least(alpha * dc);
  if (dropped > 0 && limit > 0) {
    Buffer<Nearest> nearest(dropped);
    nearest_centers(u.rows, tokens.dropped.data(), dropped, PackedKeys(u.rows, centers.data(), c), nearest.data());
    for (int64_t i = 0; i < dropped; ++i)
      if (nearest[i].distance < limit) labels[tokens.dropped[i]] = nearest[i].position;
  }

  auto [merged, sizes] = segment_mean(h, labels.data(), c);
  return {merged, sizes, to_tensor(centers), to_tensor(labels)};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("reduce", PACT_BOX("reduce", &pact::reduce_cpu)); }
