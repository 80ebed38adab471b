// The nearest centers among a list that only the device knows: in any order, repeated, or out of range.
#include "../nearest/assign.h"
#include "../order/center_order.h"
#include "op_support.h"

namespace pact {

static std::tuple<Tensor, Tensor> assign_cuda(const Tensor& keys, const Tensor& centers, double max_distance) {
  check_assign_inputs(keys, centers, max_distance);
  const Launch launch("assign", keys);
  const TensorRows k(launch, "keys", keys);
  const Tensor center_owner = launch.contiguous(centers);
  const int c = int(centers.size(0));

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  const auto token = workspace.reserve<int>(c), row = workspace.reserve<int>(c), order = workspace.reserve<int>(c);
  const auto nearest = workspace.reserve<NearestKey>(k.n);
  workspace.allocate(launch);
  Tensor labels = launch.empty({k.n}, ScalarType::Long), distances = launch.empty({k.n}, ScalarType::Float);

  // Ascending, so that the first of two equally near centers is the lower token.
  launch.check(run_center_order({center_owner.const_data_ptr<int64_t>(), c, k.n, workspace[token], workspace[row],
                                 workspace[order], launch.stream()}));
  const GramKeys aligned(launch, k.rows, k.n, workspace[norms]);

  NearestParams params{};
  params.tokens = aligned.list();
  params.n = k.n;
  params.centers = aligned.list(workspace[row]);
  params.center_token = workspace[token];
  params.capacity = c;
  params.nearest = workspace[nearest];
  params.stream = launch.stream();
  launch.check(run_nearest(params));

  int64_t* label = labels.mutable_data_ptr<int64_t>();
  launch.check(run_nearest_to_labels({workspace[nearest], k.n, nullptr, float_at_least(max_distance), nullptr, label,
                                      distances.mutable_data_ptr<float>(), launch.stream()}));
  launch.check(run_relabel({label, k.n, workspace[order], launch.stream()}));
  return {labels, distances};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("assign", PACT_BOX("assign", &pact::assign_cuda)); }
