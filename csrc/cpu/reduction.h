// What reduce and reduce_to share around the clustering: importance and split before it, recovery and merging after.
#pragma once

#include "clustering.h"

namespace pact {

class Reduction {
 public:
  // Looks for NaN and Inf in every input, and chooses the `kept_count` tokens of the largest score.
  Reduction(const char* op, Heads heads, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
            const Tensor& cluster_keys, const std::optional<Tensor>& scores, std::optional<double> scale,
            int64_t kept_count);

  // Token indices, ascending.
  const Vector<int64_t>& kept() const { return kept_; }
  Clustering clustering(double dc, DensityForm form) const {
    return Clustering(cluster_keys_.rows, kept_.data(), int64_t(kept_.size()), dc, form);
  }

  // merged, sizes, centers, labels, for clusters of the kept tokens. Dropped ones join the nearest centre that is
  // nearer than `limit`.
  std::tuple<Tensor, Tensor, Tensor, Tensor> merge(const Clusters& clusters, float limit) const;

 private:
  InputRows hidden_;
  InputRows cluster_keys_;
  Vector<int64_t> kept_, dropped_;
};

}  // namespace pact
