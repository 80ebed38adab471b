#include "candidates.h"

namespace pact {
namespace {

constexpr int64_t kChunk = 64;

}  // namespace

Candidates::Candidates(const PackedKeys& keys, const Adjacency& adjacency, const Vector<int64_t>& centers)
    : keys_(keys), adjacency_(adjacency), centers_(centers), is_center_(adjacency.words, 0), position_(keys.n(), -1) {
  for (size_t c = 0; c < centers.size(); ++c) {
    is_center_[centers[c] / 64] |= uint64_t{1} << (centers[c] % 64);
    position_[centers[c]] = int64_t(c);
  }
}

Candidates::Work Candidates::work() const {
  std::atomic<int64_t> pairs{0}, without{0};
  for_each_chunk(keys_.n(), kChunk, [&](int64_t begin, int64_t end) {
    Work found{};
    for (int64_t i = begin; i < end; ++i) {
      if (position_[i] >= 0) continue;
      int64_t candidates = 0;
      for (int64_t w = 0; w < adjacency_.words; ++w)
        candidates += __builtin_popcountll(adjacency_.row(i)[w] & is_center_[w]);
      found.pairs += candidates > 1 ? candidates : 0;
      found.without += candidates == 0;
    }
    pairs += found.pairs;
    without += found.without;
  });
  return {pairs, without};
}

void Candidates::label(bool need_distances, int64_t* labels) const {
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
      find(i, candidates);
      if (candidates.empty()) continue;
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

void Candidates::find(int64_t token, Vector<int64_t>& positions) const {
  positions.clear();
  for (int64_t w = 0; w < adjacency_.words; ++w)
    for (uint64_t word = adjacency_.row(token)[w] & is_center_[w]; word; word &= word - 1)
      positions.push_back(position_[w * 64 + __builtin_ctzll(word)]);
}

}  // namespace pact
