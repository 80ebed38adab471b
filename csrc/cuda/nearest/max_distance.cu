#include "../clustering/density.h"
#include "../gram/gram_launch.h"
#include "max_distance_kernel.cuh"

namespace pact {

cudaError_t run_max_distance(const MaxDistanceParams& params) {
  const cudaError_t error = cudaMemsetAsync(params.largest, 0, sizeof(float), params.stream);
  if (error != cudaSuccess) return error;
  return with_gram_shape(params.keys, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    return launch_gram<Shape::kThreads>(
        max_distance_kernel<T, Shape>, pair_tiles(params.n), kMaxDistanceSharedBytes<unsigned, Shape>, params.stream,
        gram_rows<T>(params.keys, params.n), params.inv_norm, reinterpret_cast<unsigned*>(params.largest));
  });
}

}  // namespace pact
