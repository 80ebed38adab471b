#include "clustering.h"

namespace pact {

static std::tuple<Tensor, Tensor> dbdpc_cuda(const Tensor& keys, double dc, double dn, bool gaussian) {
  const Argument arg{"dbdpc", "keys"};
  check_dbdpc_inputs(keys, dc, dn);
  const Launch launch("dbdpc", keys);
  check_not_capturing(launch);
  const TensorRows k(launch, "keys", keys);

  Workspace workspace;
  Clustering clustering(workspace, k.n);
  const auto norms = workspace.reserve<double>(k.n);
  workspace.allocate(launch);
  Tensor labels = launch.empty({k.n}, ScalarType::Long);

  int* status = clustering.status(workspace);
  launch.fill_bytes(status, 0, Readback::kWords * sizeof(int));
  const GramKeys aligned(launch, k.rows, k.n, workspace[norms], status + kBad);
  clustering.select(launch, workspace, aligned.list(), dc, dn, gaussian);
  Readback readback(launch, status);
  clustering.label(launch, workspace, aligned.list(), nullptr, labels.mutable_data_ptr<int64_t>());

  const int* found = readback.wait();
  if (found[kBad]) arg.fail("must be finite, got NaN or Inf among its values");
  const int c = found[kCount];
  Tensor centers = launch.empty({c}, ScalarType::Long);
  launch.check(run_centers_to_tokens({clustering.centers(workspace), nullptr, status + kCount, c, nullptr,
                                      centers.mutable_data_ptr<int64_t>(), launch.stream()}));
  return {centers, labels};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cuda)); }
