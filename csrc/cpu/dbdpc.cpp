#include "clustering.h"

namespace pact {

static std::tuple<Tensor, Tensor> dbdpc_cpu(const Tensor& keys, double dc, double dn, bool gaussian) {
  const Argument arg{"dbdpc", "keys"};
  check_dbdpc_inputs(keys, dc, dn);
  const FiniteRows k(arg, keys);
  const Clusters clusters = Clustering(k.rows, nullptr, k.n, dc, {dn, gaussian}).cluster();
  return {to_tensor(clusters.centers), to_tensor(clusters.labels)};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cpu)); }
