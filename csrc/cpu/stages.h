// The stages of a reduction on the CPU, as the operators share them.
#pragma once

#include "../boxed.h"
#include "packed_keys.h"

namespace pact {

// float32 [n] scores (contract section 1). Raises when an input is not finite, as its sums then tell, or a score.
void importance(const InputRows& hidden, const InputRows& keys, const InputRows& queries, Heads heads,
                std::optional<double> scale, float* scores);

struct DensityForm {
  double dn;
  bool gaussian;
};

// n rows of n bits: bit j of row i says dist[i, j] <= cutoff.
struct Adjacency {
  explicit Adjacency(int64_t n)
      : words(ceil_div(n, kPairTile) * kTileWords), bits(ceil_div(n, kPairTile) * kPairTile * words) {}
  const uint64_t* row(int64_t i) const { return bits.data() + i * words; }
  int64_t words;
  Buffer<uint64_t> bits;
};

// Calls f(ti, tj) for the tiles ti <= tj that hold the pairs of n tokens. Column by column: consecutive tasks share the
// panels of their column.
template <typename F>
void for_each_tile_of_pairs(int64_t n, const F& f) {
  const int64_t tiles = ceil_div(n, kPairTile);
  for_each_task(tiles * (tiles + 1) / 2, [&](int64_t task, int64_t) {
    int64_t tj = int64_t((std::sqrt(8.0 * double(task) + 1) - 1) / 2);
    while (tj * (tj + 1) / 2 > task) --tj;
    while ((tj + 1) * (tj + 2) / 2 <= task) ++tj;
    f(task - tj * (tj + 1) / 2, tj);
  });
}

// The tokens by density descending, then index ascending.
Vector<int64_t> priority_order(const float* density, int64_t n);

// Fills density [n] and, when given, the adjacency for cutoff dc.
void density(const PackedKeys& keys, DensityForm form, float* density, Adjacency* adjacency, double dc);

// out[i]: the nearest of `centers` for the token rows[index[i]], i in [0, n); the first on a tie.
void nearest_centers(Rows rows, const int64_t* index, int64_t n, const PackedKeys& centers, Nearest* out);

// The two results of segment_mean; the labels are known to be in [-1, segments).
std::tuple<Tensor, Tensor> segment_mean(const InputRows& x, const int64_t* labels, int64_t segments);

inline Tensor to_tensor(const Vector<int64_t>& values) {
  Tensor t = empty_cpu({int64_t(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

}  // namespace pact
