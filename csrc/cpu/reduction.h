// What reduce and reduce_to share around the clustering: importance and split before it, recovery and merging after.
#pragma once

#include "sequences.h"

namespace pact {

// The per-token tensors of a reduction.
struct ReductionRows {
  ReductionRows(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                const Tensor& cluster_keys, const std::optional<Tensor>& scores);
  // Those of the tokens [begin, end).
  ReductionRows range(int64_t begin, int64_t end) const;

  InputRows hidden, keys, queries, cluster_keys;
  std::optional<InputRows> scores;
};

// Of one sequence.
class Reduction {
 public:
  // Looks for NaN and Inf in every input, and chooses the `kept_count` tokens of the largest score.
  Reduction(const ReductionRows& rows, Heads heads, std::optional<double> scale, int64_t kept_count);

  Clustering clustering(double dc, DensityForm form) const {
    return Clustering(cluster_keys_, kept_.data(), int64_t(kept_.size()), dc, form);
  }

  // Clusters of the kept tokens as clusters of all: dropped ones join the nearest centre that is nearer than `limit`,
  // and are in none (label -1) otherwise.
  Clusters recover(const Clusters& clusters, float limit) const;

 private:
  Rows cluster_keys_;
  Vector<int64_t> kept_, dropped_;  // ascending
};

// merged, sizes, centers, labels, cu_centers of every sequence; reduce(rows, n) gives the clusters of one.
template <typename Reduce>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_sequences(const ReductionRows& rows,
                                                                    const Sequences& sequences, const Reduce& reduce) {
  const PackedClusters found =
      cluster_sequences(sequences, [&](int b) { return reduce(rows.range(sequences.begin(b), sequences.end(b)), b); });
  auto [merged, sizes] = segment_mean(rows.hidden, found.labels.const_data_ptr<int64_t>(), found.centers.size(0));
  return {merged, sizes, found.centers, found.labels, found.cu_centers};
}

}  // namespace pact
