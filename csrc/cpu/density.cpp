// Local density and adjacency in one pass over the upper triangle of tiles.
#include "stages.h"

namespace pact {

void density(const PackedKeys& keys, DensityForm form, float* density, Adjacency* adjacency, double dc) {
  const int64_t n = keys.n();
  Buffer<int64_t> sums(n);
  std::fill_n(sums.data(), n, int64_t(1 / kDensityUnit));  // exp(0): every token counts itself

  const PairPass pass{
      .keys = keys.panels(),
      .exponent = density_exponent(form.dn, form.gaussian),
      .gaussian = form.gaussian,
      .density = sums.data(),
      .cutoff = float_at_most(dc),
      .adjacency = adjacency ? adjacency->bits.data() : nullptr,
      .words = adjacency ? adjacency->words : 0,
  };
  for_each_tile_of_pairs(n, [&](int64_t ti, int64_t tj) { kernels().density_tile(pass, ti, tj); });
  for (int64_t i = 0; i < n; ++i) density[i] = float(double(sums[i]) * kDensityUnit);
}

static Tensor density_cpu(const Tensor& keys, double dn, bool gaussian) {
  const Argument arg{"density", "keys"};
  check_density_inputs(keys, dn);
  const FiniteRows k(arg, keys);
  Tensor out = empty_cpu({k.n}, ScalarType::Float);
  density(PackedKeys(k.rows, nullptr, k.n), {dn, gaussian}, out.mutable_data_ptr<float>(), nullptr, 0);
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("density", PACT_BOX("density", &pact::density_cpu)); }
