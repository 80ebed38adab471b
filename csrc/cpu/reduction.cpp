#include "reduction.h"

#include <numeric>

namespace pact {

ReductionRows::ReductionRows(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                             const Tensor& cluster_keys, const std::optional<Tensor>& scores)
    : hidden({op, "hidden"}, hidden),
      keys({op, "keys"}, keys),
      queries({op, "queries"}, queries),
      cluster_keys({op, "cluster_keys"}, cluster_keys) {
  if (scores) this->scores.emplace(Argument{op, "scores"}, *scores);
}

ReductionRows ReductionRows::range(int64_t begin, int64_t end) const {
  ReductionRows some = *this;
  for (InputRows* rows : {&some.hidden, &some.keys, &some.queries, &some.cluster_keys}) *rows = rows->range(begin, end);
  if (scores) some.scores = scores->range(begin, end);
  return some;
}

Reduction::Reduction(const ReductionRows& rows, Heads heads, std::optional<double> scale, int64_t kept_count)
    : cluster_keys_(rows.cluster_keys.rows) {
  const int64_t n = rows.hidden.n, m = kept_count;
  // Scores that are given, or that would choose nothing, leave the inputs unread: they are checked all the same.
  if (rows.scores || m == n)
    for (const InputRows* input : {&rows.hidden, &rows.keys, &rows.queries}) input->check_finite();
  rows.cluster_keys.check_finite();
  if (rows.scores) rows.scores->check_finite();

  Vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (m < n) {
    Buffer<float> importances(rows.scores ? 0 : n);
    if (!rows.scores) importance(rows.hidden, rows.keys, rows.queries, heads, scale, importances.data());
    const float* score = rows.scores ? static_cast<const float*>(rows.scores->rows.data) : importances.data();
    std::nth_element(order.begin(), order.begin() + m, order.end(),
                     [&](int64_t a, int64_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  }
  kept_.assign(order.begin(), order.begin() + m);
  dropped_.assign(order.begin() + m, order.end());
  std::sort(kept_.begin(), kept_.end());
  std::sort(dropped_.begin(), dropped_.end());
}

Clusters Reduction::recover(const Clusters& clusters, float limit) const {
  const int64_t c = int64_t(clusters.centers.size()), dropped = int64_t(dropped_.size());
  Clusters found{Vector<int64_t>(c), Vector<int64_t>(kept_.size() + dropped_.size(), -1)};
  for (int64_t p = 0; p < c; ++p) found.centers[p] = kept_[clusters.centers[p]];
  for (size_t i = 0; i < kept_.size(); ++i) found.labels[kept_[i]] = clusters.labels[i];

  if (dropped > 0 && limit > 0) {
    Buffer<Nearest> nearest(dropped);
    nearest_centers(cluster_keys_, dropped_.data(), dropped, PackedKeys(cluster_keys_, found.centers.data(), c),
                    nearest.data());
    for (int64_t i = 0; i < dropped; ++i)
      if (nearest[i].distance < limit) found.labels[dropped_[i]] = nearest[i].position;
  }
  return found;
}

}  // namespace pact
