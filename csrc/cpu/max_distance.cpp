// The largest distance of any pair, over the same triangle of tiles as the density.
#include "stages.h"

namespace pact {

static Tensor max_distance_cpu(const Tensor& keys) {
  const Argument arg{"max_distance", "keys"};
  check_max_distance_inputs(keys);
  const FiniteRows k(arg, keys);
  const PackedKeys packed(k.rows, nullptr, k.n);
  const int64_t tiles = ceil_div(k.n, kPairTile);
  Vector<float> largest(tiles, 0);  // of each tile column
  for_each_task(tiles, [&](int64_t task, int64_t) {
    const int64_t tj = tiles - 1 - task;  // the longest columns first
    for (int64_t ti = 0; ti <= tj; ++ti)
      largest[tj] = std::max(largest[tj], kernels().max_distance_tile(packed.panels(), ti, tj));
  });
  Tensor out = empty_cpu({}, ScalarType::Float);
  *out.mutable_data_ptr<float>() = *std::max_element(largest.begin(), largest.end());
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("max_distance", PACT_BOX("max_distance", &pact::max_distance_cpu)); }
