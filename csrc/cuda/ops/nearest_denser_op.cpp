#include "../nearest/nearest_denser.h"
#include "op_support.h"

namespace pact {

static std::tuple<Tensor, Tensor> nearest_denser_cuda(const Tensor& keys, const Tensor& density) {
  check_nearest_denser_inputs(keys, density);
  const Launch launch("nearest_denser", keys);
  const TensorRows k(launch, "keys", keys);
  const Tensor density_owner = launch.contiguous(density);

  Workspace workspace;
  const auto rank = workspace.reserve<int>(k.n), order = workspace.reserve<int>(k.n);
  const auto norms = workspace.reserve<double>(k.n);
  const auto nearest = workspace.reserve<NearestKey>(k.n);
  const auto farthest = workspace.reserve<unsigned>(1);
  workspace.allocate(launch);
  Tensor distances = launch.empty({k.n}, ScalarType::Float), indices = launch.empty({k.n}, ScalarType::Long);

  launch.check(run_density_order(
      {density_owner.const_data_ptr<float>(), k.n, workspace[rank], workspace[order], launch.stream()}));
  const GramKeys aligned(launch, k.rows, k.n, workspace[norms]);

  NearestDenserParams params{};
  params.keys = aligned.list(workspace[order]);
  params.order = workspace[order];
  params.n = k.n;
  params.nearest = workspace[nearest];
  params.farthest = workspace[farthest];
  params.distances = distances.mutable_data_ptr<float>();
  params.indices = indices.mutable_data_ptr<int64_t>();
  params.stream = launch.stream();
  launch.check(run_nearest_denser(params));
  return {distances, indices};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("nearest_denser", PACT_BOX("nearest_denser", &pact::nearest_denser_cuda));
}
