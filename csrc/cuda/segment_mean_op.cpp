#include "op_support.h"
#include "segment_mean.h"

namespace pact {

static std::tuple<Tensor, Tensor> segment_mean_cuda(const Tensor& x, const Tensor& labels, int64_t num_segments) {
  check_segment_mean_inputs(x, labels, num_segments);
  const Launch launch("segment_mean", x);
  const TensorRows rows(launch, "x", x);
  const Tensor label_owner = launch.contiguous(labels);
  const int segments = int(num_segments);

  Tensor means = launch.empty({segments, rows.rows.width}, x.scalar_type());
  Tensor counts = launch.empty({segments}, ScalarType::Long);
  Workspace workspace;
  const auto scratch = workspace.reserve_bytes(segment_mean_workspace_bytes(rows.n, segments));
  workspace.allocate(launch);

  launch.check(
      run_segment_mean({rows.rows, label_owner.const_data_ptr<int64_t>(), rows.n, segments, means.mutable_data_ptr(),
                        counts.mutable_data_ptr<int64_t>(), workspace[scratch], launch.stream()}));
  return {means, counts};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("segment_mean", PACT_BOX("segment_mean", &pact::segment_mean_cuda)); }
