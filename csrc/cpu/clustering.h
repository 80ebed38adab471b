// DBDPC in steps, as dbdpc, reduce and reduce_to take them.
#pragma once

#include "stages.h"

namespace pact {

struct Clusters {
  Vector<int64_t> centers;  // ascending, in [0, n)
  Vector<int64_t> labels;   // [n], positions in `centers`
};

class Clustering {
 public:
  // Of the tokens rows[index[i]] (rows[i] without an index), i in [0, n): densities and adjacency, by a pass over all
  // pairs.
  Clustering(Rows rows, const int64_t* index, int64_t n, double dc, DensityForm form);

  const float* density() const { return density_.data(); }

  // The greedy centres, ascending.
  Vector<int64_t> select() const;

  // Every token's nearest of `centers`, which ascend; a centre's own is itself.
  Vector<int64_t> label(const Vector<int64_t>& centers) const;

  // The plain clustering.
  Clusters cluster() const;

  // Every token's distance to its own centre.
  Vector<float> own_distances(const Clusters& clusters) const;

 private:
  int64_t row_of(int64_t token) const { return index_ ? index_[token] : token; }

  Rows rows_;
  const int64_t* index_;
  PackedKeys keys_;
  Adjacency adjacency_;
  Buffer<float> density_;
};

}  // namespace pact
