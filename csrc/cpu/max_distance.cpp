// The farthest pair, over the same triangle of tiles as the density.
#include <numeric>

#include "greedy.h"

namespace pact {

Largest farthest_pair(const PackedKeys& keys) {
  const int64_t tiles = ceil_div(keys.n(), kPairTile);
  Vector<Largest> largest(tiles, {0, 0});  // of each tile column
  for_each_task(tiles, [&](int64_t task, int64_t) {
    const int64_t tj = tiles - 1 - task;  // the longest columns first
    for (int64_t ti = 0; ti <= tj; ++ti)
      largest[tj] = larger(largest[tj], kernels().max_distance_tile(keys.panels(), ti, tj));
  });
  return std::accumulate(largest.begin(), largest.end(), largest[0], larger);
}

static Tensor max_distance_cpu(const Tensor& keys) {
  const Argument arg{"max_distance", "keys"};
  check_max_distance_inputs(keys);
  const FiniteRows k(arg, keys);
  Tensor out = empty_cpu({}, ScalarType::Float);
  *out.mutable_data_ptr<float>() = float(farthest_pair(PackedKeys(k.rows, nullptr, k.n)).value);
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("max_distance", PACT_BOX("max_distance", &pact::max_distance_cpu)); }
