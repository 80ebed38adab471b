// Means of the rows of each label, as tensors: how every reduction ends.
#pragma once

#include "../merging/segment_mean.h"
#include "op_support.h"

namespace pact {

// means [segments, d] and counts [segments]. Nothing is asked of a card for no rows.
inline std::tuple<Tensor, Tensor> merge(const Launch& launch, const TensorRows& x, const int64_t* labels, int segments,
                                        const SegmentSequences& sequences = {}) {
  Tensor means = launch.empty({segments, x.rows.width}, x.owner.scalar_type());
  Tensor counts = launch.empty({segments}, ScalarType::Long);
  if (segments == 0) return {means, counts};
  Workspace workspace;
  const auto scratch = workspace.reserve_bytes(segment_mean_workspace_bytes(x.n, segments));
  workspace.allocate(launch);
  launch.check(run_segment_mean({x.rows, labels, x.n, segments, means.mutable_data_ptr(),
                                 counts.mutable_data_ptr<int64_t>(), workspace[scratch], launch.stream(), sequences}));
  return {means, counts};
}

}  // namespace pact
