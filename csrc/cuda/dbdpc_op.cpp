#include "clustering.h"

namespace pact {

static std::tuple<Tensor, Tensor> dbdpc_cuda(const Tensor& keys, double dc, double dn, bool gaussian) {
  const Argument arg{"dbdpc", "keys"};
  check_dbdpc_inputs(keys, dc, dn);
  const Launch launch("dbdpc", keys);
  check_not_capturing(launch);
  const TensorRows k(launch, "keys", keys);
  const GramKeys aligned(launch, k.rows, nullptr, k.n);

  Workspace workspace;
  Clustering clustering(workspace, k.n);
  workspace.allocate(launch);
  Tensor labels = launch.empty({k.n}, ScalarType::Long);

  launch.fill_bytes(clustering.status(workspace), 0, Readback::kWords * sizeof(int));
  clustering.select(launch, workspace, aligned.rows(), dc, dn, gaussian);
  Readback status(launch, clustering.status(workspace));
  clustering.label(launch, workspace, aligned.rows(), nullptr, labels.mutable_data_ptr<int64_t>());

  const int* found = status.wait();
  if (found[kBad]) arg.fail("must be finite, got NaN or Inf among its values");
  const int c = found[kCount];
  Tensor centers = launch.empty({c}, ScalarType::Long);
  launch.check(run_centers_to_tokens({clustering.centers(workspace), nullptr, clustering.status(workspace) + kCount, c,
                                      nullptr, centers.mutable_data_ptr<int64_t>(), launch.stream()}));
  return {centers, labels};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cuda)); }
