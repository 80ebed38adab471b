// The nearest centre of every token: a dense pass over tiles of tokens x centres.
#include <numeric>

#include "stages.h"

namespace pact {

void nearest_centers(Rows rows, const int64_t* index, int64_t n, const PackedKeys& centers, Nearest* out) {
  const Kernels& k = kernels();
  const int64_t tiles = ceil_div(n, kPairTile), workers = worker_count(tiles);
  // Each worker packs its tile of tokens into memory of its own.
  Buffer<float> panels(workers * kPairTile * rows.width), scale(workers * kPairTile);
  Buffer<double> inv_norm(workers * kPairTile);
  for_each_task(tiles, [&](int64_t tile, int64_t worker) {
    const int64_t first = tile * kPairTile, count = std::min(kPairTile, n - first);
    float* panel = panels.data() + worker * kPairTile * rows.width;
    double* norm = inv_norm.data() + worker * kPairTile;
    for (int64_t p = 0; p < ceil_div(count, k.panel); ++p)
      k.pack_panel(rows, index, n, first / k.panel + p, panel + p * k.panel * rows.width,
                   scale.data() + worker * kPairTile, norm + p * k.panel);
    k.nearest({panel, norm, count, rows.width}, centers.panels(), out + first);
  });
}

static std::tuple<Tensor, Tensor> assign_cpu(const Tensor& keys, const Tensor& centers, double max_distance) {
  const Argument arg{"assign", "keys"}, center_arg{"assign", "centers"};
  check_assign_inputs(keys, centers, max_distance);
  const FiniteRows k(arg, keys);
  const Tensor center_owner = contiguous_cpu(centers);
  const int64_t* center = center_owner.const_data_ptr<int64_t>();
  const int64_t c = centers.size(0);
  for (int64_t p = 0; p < c; ++p)
    if (center[p] < 0 || center[p] >= k.n) center_arg.fail("must be token indices in [0, ", k.n, "), got ", center[p]);

  // In ascending token index, so that the first of two equally near centres is the lower token.
  Vector<int64_t> position(c), token(c);
  std::iota(position.begin(), position.end(), 0);
  std::stable_sort(position.begin(), position.end(), [&](int64_t a, int64_t b) { return center[a] < center[b]; });
  for (int64_t p = 0; p < c; ++p) token[p] = center[position[p]];

  Buffer<Nearest> nearest(k.n);
  nearest_centers(k.rows, nullptr, k.n, PackedKeys(k.rows, token.data(), c), nearest.data());
  for (int64_t p = c - 1; p >= 0; --p)  // a zero vector is at distance 0 from itself, and from nothing else
    if (nearest[token[p]].distance > 0 || nearest[token[p]].position > p) nearest[token[p]] = {0, int32_t(p)};

  Tensor labels = empty_cpu({k.n}, ScalarType::Long), distances = empty_cpu({k.n}, ScalarType::Float);
  const float limit = float_at_least(max_distance);
  for (int64_t i = 0; i < k.n; ++i) {
    const bool near = nearest[i].distance < limit || max_distance == INFINITY;
    labels.mutable_data_ptr<int64_t>()[i] = near ? position[nearest[i].position] : -1;
    distances.mutable_data_ptr<float>()[i] = nearest[i].distance;
  }
  return {labels, distances};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("assign", PACT_BOX("assign", &pact::assign_cpu)); }
