// The nearest token that outranks each: with the keys packed in rank order, every pair i < j offers i to j.
#include <cstring>

#include "stages.h"

namespace pact {

static std::tuple<Tensor, Tensor> nearest_denser_cpu(const Tensor& keys, const Tensor& density) {
  constexpr const char* op = "nearest_denser";
  check_nearest_denser_inputs(keys, density);
  const FiniteRows k({op, "keys"}, keys), rho({op, "density"}, density);
  const Vector<int64_t> order = priority_order(static_cast<const float*>(rho.rows.data), k.n);
  const PackedKeys packed(k.rows, order.data(), k.n);

  const int64_t tiles = ceil_div(k.n, kPairTile);
  Vector<int32_t> token(tiles * kPairTile, INT32_MAX);
  std::copy(order.begin(), order.end(), token.begin());
  Vector<uint64_t> nearest(k.n, ~uint64_t{0});
  Vector<float> farthest(tiles);
  const BeforePass pass{packed.panels(), token.data(), nearest.data(), farthest.data()};
  for_each_tile_of_pairs(k.n, [&](int64_t ti, int64_t tj) { kernels().nearest_before_tile(pass, ti, tj); });

  Tensor distances = empty_cpu({k.n}, ScalarType::Float), indices = empty_cpu({k.n}, ScalarType::Long);
  float* distance = distances.mutable_data_ptr<float>();
  int64_t* index = indices.mutable_data_ptr<int64_t>();
  distance[order[0]] = *std::max_element(farthest.begin(), farthest.end());
  index[order[0]] = -1;
  for (int64_t i = 1; i < k.n; ++i) {
    const uint32_t bits = uint32_t(nearest[i] >> 32);
    std::memcpy(distance + order[i], &bits, sizeof bits);
    index[order[i]] = int64_t(nearest[i] & 0xffffffff);
  }
  return {distances, indices};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("nearest_denser", PACT_BOX("nearest_denser", &pact::nearest_denser_cpu));
}
