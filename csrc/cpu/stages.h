// The stages of a reduction on the CPU, as the operators and `reduce` share them.
#pragma once

#include "../boxed.h"
#include "packed_keys.h"

namespace pact {

// float32 [n] scores (contract section 1). Raises when an input is not finite, as its sums then tell, or a score.
Tensor importance(const InputRows& hidden, const InputRows& keys, const InputRows& queries, Heads heads,
                  std::optional<double> scale);

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

// Fills density [n] and, when given, the adjacency for cutoff dc.
void density(const PackedKeys& keys, DensityForm form, float* density, Adjacency* adjacency, double dc);

struct Clusters {
  Vector<int64_t> centers;  // ascending, in [0, n)
  Vector<int64_t> labels;   // [n], positions in `centers`
};

// DBDPC of the tokens rows[index[i]], i in [0, n).
Clusters cluster(Rows rows, const int64_t* index, int64_t n, double dc, DensityForm form);

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
