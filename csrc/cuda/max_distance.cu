#include "density.h"
#include "gram_launch.h"
#include "max_distance_kernel.cuh"

namespace pact {

cudaError_t run_max_distance(const MaxDistanceParams& params) {
  const cudaError_t error = cudaMemsetAsync(params.largest, 0, sizeof(float), params.stream);
  if (error != cudaSuccess) return error;
  return with_gram_type(params.keys, [&](auto element, auto fold) {
    using T = decltype(element);
    constexpr bool kFold = decltype(fold)::value;
    return launch_gram<ShapeFor<kFold>::kThreads>(
        max_distance_kernel<T, kFold>, pair_tiles(params.n), kMaxDistanceSharedBytes<unsigned>, params.stream,
        gram_rows<T>(params.keys, params.n), params.inv_norm, reinterpret_cast<unsigned*>(params.largest));
  });
}

}  // namespace pact
