// DBDPC: the greedy selection walks the priority order over adjacency bits; labels come from candidate bits.
#include <numeric>

#include "stages.h"

namespace pact {
namespace {

// The tokens by density descending, then index ascending.
Vector<int64_t> priority_order(const float* density, int64_t n) {
  Vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return density[a] != density[b] ? density[a] > density[b] : a < b; });
  return order;
}

// A token becomes a centre unless a centre before it has it as a neighbour. Ascending.
Vector<int64_t> select_centers(const Vector<int64_t>& order, const Adjacency& adjacency) {
  Vector<uint64_t> covered(adjacency.words, 0);
  Vector<int64_t> centers;
  for (const int64_t token : order) {
    if (covered[token / 64] >> (token % 64) & 1) continue;
    centers.push_back(token);
    const uint64_t* near = adjacency.row(token);
    for (int64_t w = 0; w < adjacency.words; ++w) covered[w] |= near[w];
  }
  std::sort(centers.begin(), centers.end());
  return centers;
}

// Every token's nearest centre is among its neighbours, so only those are compared.
class Labeller {
 public:
  Labeller(const PackedKeys& keys, const Adjacency& adjacency, const Vector<int64_t>& centers)
      : keys_(keys), adjacency_(adjacency), centers_(centers), is_center_(adjacency.words, 0), position_(keys.n(), -1) {
    for (size_t c = 0; c < centers.size(); ++c) {
      is_center_[centers[c] / 64] |= uint64_t{1} << (centers[c] % 64);
      position_[centers[c]] = int64_t(c);
    }
  }

  // Pairs that need a distance: the candidates of every token that has more than one.
  int64_t pairs_to_compare() const {
    std::atomic<int64_t> pairs{0};
    for_each_chunk(keys_.n(), kChunk, [&](int64_t begin, int64_t end) {
      int64_t found = 0;
      for (int64_t i = begin; i < end; ++i) {
        if (position_[i] >= 0) continue;
        int64_t candidates = 0;
        for (int64_t w = 0; w < adjacency_.words; ++w)
          candidates += __builtin_popcountll(adjacency_.row(i)[w] & is_center_[w]);
        found += candidates > 1 ? candidates : 0;
      }
      pairs += found;
    });
    return pairs;
  }

  // Compares pair by pair.
  void by_candidates(bool need_distances, int64_t* labels) const {
    const int64_t dk = keys_.dk(), c = int64_t(centers_.size());
    Buffer<float> center_rows(need_distances ? c * dk : 0);
    if (need_distances)
      for_each_chunk(c, kChunk, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) keys_.load_row(centers_[p], center_rows.data() + p * dk);
      });
    for_each_chunk(keys_.n(), kChunk, [&](int64_t begin, int64_t end) {
      Vector<float> row(dk), distances;
      Vector<int64_t> candidates;
      Vector<const float*> others;
      Vector<double> inv_norms;
      for (int64_t i = begin; i < end; ++i) {
        if (position_[i] >= 0) {
          labels[i] = position_[i];
          continue;
        }
        find_candidates(i, candidates);
        labels[i] = candidates[0];
        if (candidates.size() == 1) continue;
        others.clear();
        inv_norms.clear();
        for (const int64_t p : candidates) {
          others.push_back(center_rows.data() + p * dk);
          inv_norms.push_back(keys_.inv_norm(centers_[p]));
        }
        distances.resize(candidates.size());
        keys_.load_row(i, row.data());
        kernels().pair_distances(row.data(), keys_.inv_norm(i), others.data(), inv_norms.data(),
                                 int64_t(candidates.size()), dk, distances.data());
        labels[i] = candidates[std::min_element(distances.begin(), distances.end()) - distances.begin()];
      }
    });
  }

 private:
  static constexpr int64_t kChunk = 64;

  void find_candidates(int64_t i, Vector<int64_t>& out) const {
    out.clear();
    for (int64_t w = 0; w < adjacency_.words; ++w)
      for (uint64_t word = adjacency_.row(i)[w] & is_center_[w]; word; word &= word - 1)
        out.push_back(position_[w * 64 + __builtin_ctzll(word)]);
  }

  const PackedKeys& keys_;
  const Adjacency& adjacency_;
  const Vector<int64_t>& centers_;
  Vector<uint64_t> is_center_;
  Vector<int64_t> position_;  // of a centre among the centres, -1 for other tokens
};

}  // namespace

Clusters cluster(Rows rows, const int64_t* index, int64_t n, double dc, DensityForm form) {
  // One pair alone costs about as much as this many pairs of a dense tile.
  constexpr int64_t kPairCost = 8;

  const PackedKeys keys(rows, index, n);
  Adjacency adjacency(n);
  Buffer<float> rho(n);
  density(keys, form, rho.data(), &adjacency, dc);
  Clusters result{select_centers(priority_order(rho.data(), n), adjacency), Vector<int64_t>(n)};

  const int64_t c = int64_t(result.centers.size());
  const Labeller labeller(keys, adjacency, result.centers);
  const int64_t pairs = labeller.pairs_to_compare();
  if (pairs * kPairCost <= n * c) {
    labeller.by_candidates(pairs > 0, result.labels.data());
    return result;
  }
  Vector<int64_t> center_rows(c);
  for (int64_t p = 0; p < c; ++p) center_rows[p] = index ? index[result.centers[p]] : result.centers[p];
  Buffer<Nearest> nearest(n);
  nearest_centers(rows, index, n, PackedKeys(rows, center_rows.data(), c), nearest.data());
  for (int64_t i = 0; i < n; ++i) result.labels[i] = nearest[i].position;
  for (int64_t p = 0; p < c; ++p) result.labels[result.centers[p]] = p;  // a zero vector is at 0 from itself only
  return result;
}

static std::tuple<Tensor, Tensor> dbdpc_cpu(const Tensor& keys, double dc, double dn, bool gaussian) {
  const Argument arg{"dbdpc", "keys"};
  check_dbdpc_inputs(keys, dc, dn);
  const FiniteRows k(arg, keys);
  const Clusters clusters = cluster(k.rows, nullptr, k.n, dc, {dn, gaussian});
  return {to_tensor(clusters.centers), to_tensor(clusters.labels)};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cpu)); }
