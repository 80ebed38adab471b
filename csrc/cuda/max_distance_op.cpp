#include "density.h"
#include "op_support.h"

namespace pact {

static Tensor max_distance_cuda(const Tensor& keys) {
  const Argument arg{"max_distance", "keys"};
  check_keys(arg, keys);
  const Launch launch("max_distance", keys);
  const TensorRows k(arg, keys);
  const GramKeys aligned(launch, k.rows, nullptr, k.n);

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  workspace.allocate(launch);
  Tensor largest = launch.empty({}, ScalarType::Float);

  launch.norms(aligned.rows(), k.n, workspace[norms], nullptr);
  launch.check(
      run_max_distance({aligned.rows(), workspace[norms], k.n, largest.mutable_data_ptr<float>(), launch.stream()}));
  return largest;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("max_distance", TORCH_BOX(&pact::max_distance_cuda)); }
