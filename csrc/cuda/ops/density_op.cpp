#include "../clustering/density.h"
#include "op_support.h"

namespace pact {

static Tensor density_cuda(const Tensor& keys, double dn, bool gaussian) {
  check_density_inputs(keys, dn);
  const Launch launch("density", keys);
  const TensorRows k(launch, "keys", keys);

  Workspace workspace;
  const auto norms = workspace.reserve<double>(k.n);
  const auto density = workspace.reserve<unsigned long long>(k.n);
  workspace.allocate(launch);
  Tensor rho = launch.empty({k.n}, ScalarType::Float);

  const GramKeys aligned(launch, k.rows, k.n, workspace[norms]);
  DensityParams params{};
  params.keys = aligned.list();
  params.n = k.n;
  params.exponent = density_exponent(dn, gaussian);
  params.gaussian = gaussian;
  params.density = workspace[density];
  params.stream = launch.stream();
  launch.check(run_density(params));
  launch.check(run_density_to_float({workspace[density], k.n, rho.mutable_data_ptr<float>(), launch.stream()}));
  return rho;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("density", PACT_BOX("density", &pact::density_cuda)); }
