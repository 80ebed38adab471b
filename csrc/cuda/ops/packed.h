// How every packed operator ends: what each sequence has in its own numbering is numbered through, and merged.
#pragma once

#include "cluster_stages.h"

namespace pact {

class PackedCenters {
 public:
  // `counts`: centers of each sequence.
  PackedCenters(const Launch& launch, const Sequences& sequences, const std::vector<int>& counts);

  // [B + 1] on the CPU.
  Tensor cu_centers() const;

  // The centers, int64; and the labels [n] in place. `center_token` and `counts` as in run_number_through: places
  // without a center hold -1.
  Tensor number_through(const int* center_token, int64_t* labels, const int* counts = nullptr) const;

  // Means and sizes of these labels' rows.
  std::tuple<Tensor, Tensor> merge(const TensorRows& hidden, const int64_t* labels) const;

 private:
  const Launch& launch_;
  const Sequences& sequences_;
  Sequences centers_;
  Workspace workspace_;  // the bounds of both, on the device
  Workspace::Slot<int> cu_rows_, cu_centers_;
};

// merged, sizes, centers, labels, cu_centers
using PackedReduction = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Of clusters whose centers are named and whose labels are there.
PackedReduction merge_packed(const ClusterStages& clusters, const TensorRows& hidden, const std::vector<int>& counts);

// Of sequences that have no rows.
PackedReduction nothing_reduced(const Launch& launch, const TensorRows& hidden, const Sequences& sequences);

}  // namespace pact
