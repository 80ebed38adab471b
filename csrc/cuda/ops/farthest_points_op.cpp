#include "../selection/greedy.h"
#include "op_support.h"

namespace pact {

static Tensor farthest_points_cuda(const Tensor& keys, int64_t count, std::optional<int64_t> first) {
  check_farthest_points_inputs(keys, count, first);
  const Launch launch("farthest_points", keys);
  const TensorRows k(launch, "keys", keys);

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  const auto slots = workspace.reserve<GreedyKey>(count);
  const auto nearest = workspace.reserve<float>(k.n);
  workspace.allocate(launch);
  Tensor chosen = launch.empty({count}, ScalarType::Long);

  // These norms are for the products of the Gram tiles; those of the steps replace them.
  const GramKeys aligned(launch, k.rows, k.n, first ? nullptr : workspace[norms]);
  launch.fill_bytes(workspace[slots], 0, size_t(count) * sizeof(GreedyKey));
  if (!first)
    launch.check(run_farthest_pair({aligned.rows(), workspace[norms], k.n, workspace[slots], launch.stream()}));

  GreedyStartParams start{};
  start.keys = aligned.rows();
  start.n = k.n;
  start.inv_norm = workspace[norms];
  start.first = int(first.value_or(-1));
  start.first_slot = workspace[slots];
  start.stream = launch.stream();
  launch.check(run_greedy_start(start));

  FarthestPointsParams params{};
  params.keys = aligned.rows();
  params.inv_norm = workspace[norms];
  params.n = k.n;
  params.count = int(count);
  params.slots = workspace[slots];
  params.nearest = workspace[nearest];
  params.chosen = chosen.mutable_data_ptr<int64_t>();
  params.stream = launch.stream();
  launch.check(run_farthest_points(params));
  return chosen;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("farthest_points", PACT_BOX("farthest_points", &pact::farthest_points_cuda));
}
