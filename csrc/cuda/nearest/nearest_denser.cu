#include "../gram/gram_launch.h"
#include "../order/rank_launch.h"
#include "nearest_denser.h"
#include "nearest_denser_kernel.cuh"

namespace pact {

cudaError_t run_density_order(const DensityOrderParams& p) {
  return launch_rank(FloatPriority{p.density}, p.n, StoreRankAndOrder{p.rank, p.order}, p.stream);
}

cudaError_t run_nearest_denser(const NearestDenserParams& p) {
  cudaError_t error = cudaMemsetAsync(p.nearest, 0xff, size_t(p.n) * sizeof(*p.nearest), p.stream);
  if (error == cudaSuccess) error = cudaMemsetAsync(p.farthest, 0, sizeof(*p.farthest), p.stream);
  if (error != cudaSuccess) return error;
  error = with_gram_shape(p.keys, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    return launch_gram<Shape::kThreads>(nearest_denser_kernel<T, Shape>, pair_tiles(p.n),
                                        kNearestDenserSharedBytes<Shape>, p.stream, gram_rows<T>(p.keys, p.n),
                                        gram_norms(p.keys), p.order, p.nearest, p.farthest);
  });
  if (error != cudaSuccess) return error;
  const unsigned blocks = static_cast<unsigned>((int64_t{p.n} + kGramThreads - 1) / kGramThreads);
  nearest_denser_to_tokens_kernel<<<blocks, kGramThreads, 0, p.stream>>>(p.nearest, p.farthest, p.order, p.n,
                                                                         p.distances, p.indices);
  return cudaGetLastError();
}

}  // namespace pact
