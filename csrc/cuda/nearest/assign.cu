#include "../gram/gram_launch.h"
#include "assign.h"
#include "assign_kernel.cuh"

namespace pact {

cudaError_t run_nearest(const NearestParams& params) {
  const size_t bytes = sizeof(*params.nearest) * static_cast<size_t>(params.n);
  const cudaError_t error = cudaMemsetAsync(params.nearest, 0xff, bytes, params.stream);
  if (error != cudaSuccess || params.capacity == 0) return error;
  return with_gram_shape(params.tokens, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    const int64_t token_tiles = gram_tiles(params.n), blocks = token_tiles * gram_tiles(params.capacity);
    return launch_gram<Shape::kThreads>(
        nearest_kernel<T, Shape>, blocks, kNearestSharedBytes<Shape>, params.stream,
        gram_rows<T>(params.tokens, params.n), gram_norms(params.tokens), params.token_index, params.token_count,
        gram_rows<T>(params.centers, params.capacity), gram_norms(params.centers), params.center_token, params.count,
        static_cast<unsigned>(token_tiles), params.nearest);
  });
}

cudaError_t run_nearest_to_labels(const NearestToLabelsParams& params) {
  const unsigned blocks = static_cast<unsigned>(gram_tiles(params.n));
  nearest_to_labels_kernel<<<blocks, kGramTile, 0, params.stream>>>(
      params.nearest, params.n, params.count, params.limit, params.scatter, params.labels, params.distances);
  return cudaGetLastError();
}

}  // namespace pact
