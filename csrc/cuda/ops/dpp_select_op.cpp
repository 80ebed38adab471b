#include "../selection/greedy.h"
#include "op_support.h"

namespace pact {

static Tensor dpp_select_cuda(const Tensor& keys, const Tensor& relevance, int64_t count) {
  check_dpp_select_inputs(keys, relevance, count);
  const Launch launch("dpp_select", keys);
  const TensorRows k(launch, "keys", keys);
  const GramKeys aligned(launch, k.rows, k.n, nullptr);

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  const auto gain_slots = workspace.reserve<GreedyKey>(count), relevance_slots = workspace.reserve<GreedyKey>(count);
  const auto largest_relevance = workspace.reserve<unsigned>(1);
  const auto gain = workspace.reserve<float>(k.n), entries = workspace.reserve<float>(int64_t{k.n} * count);
  workspace.allocate(launch);
  Tensor chosen = launch.empty({count}, ScalarType::Long);

  for (GreedyKey* slots : {workspace[gain_slots], workspace[relevance_slots]})
    launch.fill_bytes(slots, 0, size_t(count) * sizeof(GreedyKey));
  launch.fill_bytes(workspace[largest_relevance], 0, sizeof(unsigned));

  GreedyStartParams start{};
  start.keys = aligned.rows();
  start.n = k.n;
  start.inv_norm = workspace[norms];
  start.first = -1;
  start.relevance = relevance.const_data_ptr<float>();
  start.relevance_stride = relevance.stride(0);
  start.largest_relevance = workspace[largest_relevance];
  start.stream = launch.stream();
  launch.check(run_greedy_start(start));

  DppSelectParams params{};
  params.keys = aligned.rows();
  params.inv_norm = workspace[norms];
  params.relevance = start.relevance;
  params.relevance_stride = start.relevance_stride;
  params.largest_relevance = workspace[largest_relevance];
  params.n = k.n;
  params.count = int(count);
  params.gain_slots = workspace[gain_slots];
  params.relevance_slots = workspace[relevance_slots];
  params.gain = workspace[gain];
  params.entries = workspace[entries];
  params.chosen = chosen.mutable_data_ptr<int64_t>();
  params.stream = launch.stream();
  launch.check(run_dpp_select(params));
  return chosen;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("dpp_select", PACT_BOX("dpp_select", &pact::dpp_select_cuda)); }
