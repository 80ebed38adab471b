#include "merging.h"

namespace pact {

static std::tuple<Tensor, Tensor> segment_mean_cuda(const Tensor& x, const Tensor& labels, int64_t num_segments) {
  check_segment_mean_inputs(x, labels, num_segments);
  const Launch launch("segment_mean", x);
  const TensorRows rows(launch, "x", x);
  const Tensor label_owner = launch.contiguous(labels);
  return merge(launch, rows, label_owner.const_data_ptr<int64_t>(), int(num_segments));
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("segment_mean", PACT_BOX("segment_mean", &pact::segment_mean_cuda)); }
