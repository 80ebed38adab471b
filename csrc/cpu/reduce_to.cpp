// The reduction to an exact number of tokens: centres are taken from the plain clustering, or added to it.
#include <numeric>

#include "reduction.h"

namespace pact {
namespace {

// The first `count` of `tokens` by that order, ascending.
template <typename Before>
Vector<int64_t> first_of(Vector<int64_t> tokens, int64_t count, const Before& before) {
  std::nth_element(tokens.begin(), tokens.begin() + count, tokens.end(), before);
  tokens.resize(count);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// The centres of the largest clusters; of equal ones the denser, then the lower index.
Vector<int64_t> fewer_centers(const Clusters& clusters, const float* density, int64_t count) {
  Vector<int64_t> size(clusters.labels.size(), 0);  // by the centre's index
  for (const int64_t label : clusters.labels) ++size[clusters.centers[label]];
  return first_of(clusters.centers, count, [&](int64_t a, int64_t b) {
    if (size[a] != size[b]) return size[a] > size[b];
    return density[a] != density[b] ? density[a] > density[b] : a < b;
  });
}

// The centres and the tokens farthest from their own; of equally far ones the lower index.
Vector<int64_t> more_centers(const Clusters& clusters, const Vector<float>& distance, int64_t count) {
  Vector<char> is_center(distance.size(), 0);
  for (const int64_t center : clusters.centers) is_center[center] = 1;
  Vector<int64_t> tokens(distance.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  return first_of(tokens, count, [&](int64_t a, int64_t b) {
    if (is_center[a] != is_center[b]) return is_center[a] > is_center[b];
    return distance[a] != distance[b] ? distance[a] > distance[b] : a < b;
  });
}

// Exactly `count` <= n clusters of the n tokens.
Clusters cluster_to(const Clustering& clustering, int64_t count) {
  Clusters clusters = clustering.cluster();
  const int64_t found = int64_t(clusters.centers.size());
  if (found == count) return clusters;
  clusters.centers = found > count ? fewer_centers(clusters, clustering.density(), count)
                                   : more_centers(clusters, clustering.own_distances(clusters), count);
  clusters.labels = clustering.label(clusters.centers);
  return clusters;
}

// Every token a cluster of its own.
Clusters singletons(int64_t n) {
  Vector<int64_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return {tokens, tokens};
}

// At most `count` tokens.
Clusters reduce_one_to(const ReductionRows& rows, Heads heads, int64_t count, const Config& c) {
  const int64_t n = rows.hidden.n, budget = std::min(n, count), kept = std::max(kept_count(n, c.prune_ratio), budget);
  const Reduction reduction(rows, heads, c.scale, kept);
  const Clusters clusters =
      kept == budget ? singletons(kept) : cluster_to(reduction.clustering(c.dc, {c.dn, c.gaussian}), budget);
  return reduction.recover(clusters, float_at_least(c.alpha * c.dc));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_to_cpu(const Tensor& hidden, const Tensor& keys,
                                                         const Tensor& queries, const Tensor& cluster_keys,
                                                         int64_t count, double prune_ratio, double dc, double dn,
                                                         double alpha, const std::optional<Tensor>& scores,
                                                         std::optional<double> scale, bool gaussian) {
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_to_inputs(hidden, keys, queries, cluster_keys, count, scores, config);
  auto [merged, sizes, centers, labels, cu_centers] =
      reduce_sequences({"reduce_to", hidden, keys, queries, cluster_keys, scores}, Sequences::one(hidden.size(0)),
                       [&](const ReductionRows& rows, int) { return reduce_one_to(rows, heads, count, config); });
  return {merged, sizes, centers, labels};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_to_packed_cpu(
    const Tensor& hidden, const Tensor& keys, const Tensor& queries, const Tensor& cluster_keys,
    const Tensor& cu_seqlens, const Tensor& counts, double prune_ratio, double dc, double dn, double alpha,
    const std::optional<Tensor>& scores, std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReduceToPacked;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads =
      check_reduce_to_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, counts, scores, config);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  const std::vector<int> count = read_counts({op, "counts"}, counts);
  return reduce_sequences(
      {op, hidden, keys, queries, cluster_keys, scores}, sequences,
      [&](const ReductionRows& rows, int b) { return reduce_one_to(rows, heads, count[b], config); });
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to_cpu));
  m.impl("reduce_to_packed", PACT_BOX("reduce_to_packed", &pact::reduce_to_packed_cpu));
}
