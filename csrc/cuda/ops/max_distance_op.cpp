#include "../clustering/density.h"
#include "op_support.h"

namespace pact {

static Tensor max_distance_cuda(const Tensor& keys) {
  check_max_distance_inputs(keys);
  const Launch launch("max_distance", keys);
  const TensorRows k(launch, "keys", keys);

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  workspace.allocate(launch);
  Tensor largest = launch.empty({}, ScalarType::Float);

  const GramKeys aligned(launch, k.rows, k.n, workspace[norms]);
  launch.check(
      run_max_distance({aligned.rows(), workspace[norms], k.n, largest.mutable_data_ptr<float>(), launch.stream()}));
  return largest;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("max_distance", PACT_BOX("max_distance", &pact::max_distance_cuda)); }
