#include "clustering.h"

#include <numeric>

#include "candidates.h"

namespace pact {

Vector<int64_t> priority_order(const float* density, int64_t n) {
  Vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return density[a] != density[b] ? density[a] > density[b] : a < b; });
  return order;
}

Clustering::Clustering(Rows rows, const int64_t* index, int64_t n, double dc, DensityForm form)
    : rows_(rows), index_(index), keys_(rows, index, n), adjacency_(n), density_(n) {
  pact::density(keys_, form, density_.data(), &adjacency_, dc);
}

// A token becomes a centre unless a centre before it has it as a neighbour.
Vector<int64_t> Clustering::select() const {
  Vector<uint64_t> covered(adjacency_.words, 0);
  Vector<int64_t> centers;
  for (const int64_t token : priority_order(density_.data(), keys_.n())) {
    if (covered[token / 64] >> (token % 64) & 1) continue;
    centers.push_back(token);
    const uint64_t* near = adjacency_.row(token);
    for (int64_t w = 0; w < adjacency_.words; ++w) covered[w] |= near[w];
  }
  std::sort(centers.begin(), centers.end());
  return centers;
}

// By the candidates among each token's neighbours while those are few, else by a dense pass. What has no candidate
// (its centre does not stay, in reduce_to) goes through the dense pass alone.
Vector<int64_t> Clustering::label(const Vector<int64_t>& centers) const {
  // One pair alone costs about as much as this many pairs of a dense tile.
  constexpr int64_t kPairCost = 8;

  const int64_t n = keys_.n(), c = int64_t(centers.size());
  const Candidates candidates(keys_, adjacency_, centers);
  const Candidates::Work work = candidates.work();
  Vector<int64_t> labels(n, -1), far;
  const bool sparse = work.pairs * kPairCost + work.without * c <= n * c;
  if (sparse) candidates.label(work.pairs > 0, labels.data());
  for (int64_t i = 0; i < n; ++i)
    if (labels[i] < 0) far.push_back(i);
  if (far.empty()) return labels;

  Vector<int64_t> center_rows(c), far_rows(far.size());
  for (int64_t p = 0; p < c; ++p) center_rows[p] = row_of(centers[p]);
  for (size_t i = 0; i < far.size(); ++i) far_rows[i] = row_of(far[i]);
  Buffer<Nearest> nearest(int64_t(far.size()));
  nearest_centers(rows_, far_rows.data(), int64_t(far.size()), PackedKeys(rows_, center_rows.data(), c),
                  nearest.data());
  for (size_t i = 0; i < far.size(); ++i) labels[far[i]] = nearest[i].position;
  for (int64_t p = 0; p < c; ++p) labels[centers[p]] = p;  // a zero vector is at 0 from itself only
  return labels;
}

Clusters Clustering::cluster() const {
  Clusters found{select(), {}};
  found.labels = label(found.centers);
  return found;
}

// Centre by centre, a few of its members at a time.
Vector<float> Clustering::own_distances(const Clusters& clusters) const {
  constexpr int64_t kMembers = 8;
  const int64_t n = keys_.n(), c = int64_t(clusters.centers.size()), dk = keys_.dk();
  Vector<int64_t> order(n), first(c + 1, 0);
  for (int64_t i = 0; i < n; ++i) ++first[clusters.labels[i] + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  Vector<int64_t> next(first.begin(), first.end());
  for (int64_t i = 0; i < n; ++i) order[next[clusters.labels[i]]++] = i;

  Vector<float> distances(n, 0);
  Buffer<float> rows(worker_count(c) * (kMembers + 1) * dk);
  for_each_task(c, [&](int64_t p, int64_t worker) {
    const int64_t center = clusters.centers[p];
    if (first[p + 1] - first[p] == 1) return;  // itself
    float* own = rows.data() + worker * (kMembers + 1) * dk;
    keys_.load_row(center, own);
    for (int64_t begin = first[p]; begin < first[p + 1]; begin += kMembers) {
      const int64_t count = std::min(kMembers, first[p + 1] - begin);
      const float* others[kMembers];
      double inv_norms[kMembers];
      float found[kMembers];
      for (int64_t m = 0; m < count; ++m) {
        float* row = own + (m + 1) * dk;
        keys_.load_row(order[begin + m], row);
        others[m] = row;
        inv_norms[m] = keys_.inv_norm(order[begin + m]);
      }
      kernels().pair_distances(own, keys_.inv_norm(center), others, inv_norms, count, dk, found);
      for (int64_t m = 0; m < count; ++m) distances[order[begin + m]] = found[m];
    }
    distances[center] = 0;
  });
  return distances;
}

}  // namespace pact
