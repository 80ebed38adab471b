// Farthest-point selection: one pass over the packed keys per token chosen, which keeps every token's distance to the
// nearest chosen one.
#include "greedy.h"

namespace pact {

static Tensor farthest_points_cpu(const Tensor& keys, int64_t count, std::optional<int64_t> first) {
  const Argument arg{"farthest_points", "keys"};
  check_farthest_points_inputs(keys, count, first);
  const FiniteRows k(arg, keys);
  const PackedKeys packed(k.rows, nullptr, k.n);

  constexpr float kChosen = -1;  // below every distance; so is padding
  Vector<float> nearest(padded(packed), kChosen);
  std::fill_n(nearest.begin(), k.n, INFINITY);
  Vector<float> row(packed.dk());
  Tensor out = empty_cpu({count}, ScalarType::Long);
  int64_t* chosen = out.mutable_data_ptr<int64_t>();
  chosen[0] = first ? *first : farthest_pair(packed).token;
  for (int64_t t = 1; t < count; ++t) {
    const int64_t last = chosen[t - 1];
    nearest[last] = kChosen;
    packed.load_row(last, row.data());
    const auto step = [&](int64_t begin, int64_t end) {
      return kernels().farthest_step(packed.panels(), begin, end, row.data(), packed.inv_norm(last), nearest.data());
    };
    chosen[t] = largest_of_panels(packed, step).token;
  }
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("farthest_points", PACT_BOX("farthest_points", &pact::farthest_points_cpu));
}
