#include "reduction.h"

#include <numeric>

namespace pact {

Reduction::Reduction(const char* op, Heads heads, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                     const Tensor& cluster_keys, const std::optional<Tensor>& scores, std::optional<double> scale,
                     int64_t kept_count)
    : hidden_({op, "hidden"}, hidden), cluster_keys_({op, "cluster_keys"}, cluster_keys) {
  const InputRows k({op, "keys"}, keys), q({op, "queries"}, queries);
  const int64_t n = hidden_.n, m = kept_count;
  // Scores that are given, or that would choose nothing, leave the inputs unread: they are checked all the same.
  std::optional<Tensor> importances;
  if (scores || m == n)
    for (const InputRows* input : std::initializer_list<const InputRows*>{&hidden_, &k, &q}) input->check_finite();
  cluster_keys_.check_finite();
  if (scores)
    importances = FiniteRows({op, "scores"}, *scores).owner;
  else if (m < n)
    importances = importance(hidden_, k, q, heads, scale);

  Vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (m < n) {
    const float* score = importances->const_data_ptr<float>();
    std::nth_element(order.begin(), order.begin() + m, order.end(),
                     [&](int64_t a, int64_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  }
  kept_.assign(order.begin(), order.begin() + m);
  dropped_.assign(order.begin() + m, order.end());
  std::sort(kept_.begin(), kept_.end());
  std::sort(dropped_.begin(), dropped_.end());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Reduction::merge(const Clusters& clusters, float limit) const {
  const int64_t c = int64_t(clusters.centers.size()), dropped = int64_t(dropped_.size());
  Vector<int64_t> centers(c), labels(hidden_.n, -1);
  for (int64_t p = 0; p < c; ++p) centers[p] = kept_[clusters.centers[p]];
  for (size_t i = 0; i < kept_.size(); ++i) labels[kept_[i]] = clusters.labels[i];

  if (dropped > 0 && limit > 0) {
    Buffer<Nearest> nearest(dropped);
    nearest_centers(cluster_keys_.rows, dropped_.data(), dropped, PackedKeys(cluster_keys_.rows, centers.data(), c),
                    nearest.data());
    for (int64_t i = 0; i < dropped; ++i)
      if (nearest[i].distance < limit) labels[dropped_[i]] = nearest[i].position;
  }

  auto [merged, sizes] = segment_mean(hidden_, labels.data(), c);
  return {merged, sizes, to_tensor(centers), to_tensor(labels)};
}

}  // namespace pact
