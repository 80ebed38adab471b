// The reduction to a number of tokens that is known beforehand: centres are taken from the plain clustering, or, where
// the number is exact, added to it.
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

struct Budget {
  int64_t count;
  bool at_most;  // else exactly
};

// As many clusters of the n >= budget.count tokens.
Clusters cluster_to(const Clustering& clustering, Budget budget) {
  Clusters clusters = clustering.cluster();
  const int64_t found = int64_t(clusters.centers.size()), count = budget.count;
  if (found == count || (found < count && budget.at_most)) return clusters;
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

Clusters reduce_one_to(const ReductionRows& rows, Heads heads, Budget budget, const Config& c) {
  const int64_t n = rows.hidden.n;
  int64_t kept = kept_count(n, c.prune_ratio);
  budget.count = std::min(n, budget.count);
  if (!budget.at_most) kept = std::max(kept, budget.count);
  const Reduction reduction(rows, heads, c.scale, kept);
  const Clusters clusters = kept == budget.count && !budget.at_most
                                ? singletons(kept)
                                : cluster_to(reduction.clustering(c.dc, {c.dn, c.gaussian}), budget);
  return reduction.recover(clusters, float_at_least(c.alpha * c.dc));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_to_cpu(const Tensor& hidden, const Tensor& keys,
                                                         const Tensor& queries, const Tensor& cluster_keys,
                                                         int64_t count, double prune_ratio, double dc, double dn,
                                                         double alpha, const std::optional<Tensor>& scores,
                                                         std::optional<double> scale, bool gaussian) {
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_to_inputs(hidden, keys, queries, cluster_keys, count, scores, config);
  auto [merged, sizes, centers, labels, cu_centers] = reduce_sequences(
      {"reduce_to", hidden, keys, queries, cluster_keys, scores}, Sequences::one(hidden.size(0)),
      [&](const ReductionRows& rows, int) { return reduce_one_to(rows, heads, {count, false}, config); });
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
      [&](const ReductionRows& rows, int b) { return reduce_one_to(rows, heads, {count[b], false}, config); });
}

// Of each sequence `capacity` rows: its merged tokens, and behind them rows that stand for no token.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> padded(const ReductionRows& rows, const Sequences& sequences,
                                                          const PackedClusters& found, int64_t capacity) {
  const int64_t b = sequences.count(), segments = b * capacity;
  const int32_t* first = found.cu_centers.const_data_ptr<int32_t>();
  Tensor labels = found.labels;
  for (int i = 0; i < b; ++i) {
    int64_t* label = labels.mutable_data_ptr<int64_t>();
    for (int64_t row = sequences.begin(i); row < sequences.end(i); ++row)
      if (label[row] >= 0) label[row] += i * capacity - first[i];
  }
  auto [merged, sizes] = segment_mean(rows.hidden, labels.const_data_ptr<int64_t>(), segments);

  Tensor centers = empty_cpu({b, capacity}, ScalarType::Long), counts = empty_cpu({b}, ScalarType::Int);
  int64_t* center = centers.mutable_data_ptr<int64_t>();
  const int64_t* found_center = found.centers.const_data_ptr<int64_t>();
  std::fill_n(center, segments, -1);
  for (int i = 0; i < b; ++i) {
    std::copy(found_center + first[i], found_center + first[i + 1], center + i * capacity);
    counts.mutable_data_ptr<int32_t>()[i] = first[i + 1] - first[i];
  }
  return {torch::stable::view(merged, {b, capacity, rows.hidden.rows.width}), torch::stable::view(sizes, {b, capacity}),
          centers, labels, counts};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_padded_cpu(const Tensor& hidden, const Tensor& keys,
                                                                     const Tensor& queries, const Tensor& cluster_keys,
                                                                     const Tensor& cu_seqlens, int64_t capacity,
                                                                     double prune_ratio, double dc, double dn,
                                                                     double alpha, const std::optional<Tensor>& scores,
                                                                     std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReducePadded;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads =
      check_reduce_padded_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, capacity, scores, config);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  const ReductionRows rows{op, hidden, keys, queries, cluster_keys, scores};
  const PackedClusters found = cluster_sequences(sequences, [&](int b) {
    return reduce_one_to(rows.range(sequences.begin(b), sequences.end(b)), heads, {capacity, true}, config);
  });
  return padded(rows, sequences, found, capacity);
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to_cpu));
  m.impl("reduce_to_packed", PACT_BOX("reduce_to_packed", &pact::reduce_to_packed_cpu));
  m.impl("reduce_padded", PACT_BOX("reduce_padded", &pact::reduce_padded_cpu));
}
