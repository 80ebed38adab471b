#include "../gram/gram_launch.h"
#include "../nearest/max_distance_kernel.cuh"
#include "greedy.h"
#include "greedy_kernel.cuh"

namespace pact {
namespace {

unsigned token_blocks(int n) { return static_cast<unsigned>((n - 1) / kGreedyWarps + 1); }
unsigned result_blocks(int count) { return static_cast<unsigned>((count - 1) / kGreedyThreads + 1); }

}  // namespace

cudaError_t run_greedy_start(const GreedyStartParams& p) {
  return with_type(p.keys.dtype, [&](auto element) {
    using T = decltype(element);
    greedy_start_kernel<T><<<token_blocks(p.n), kGreedyThreads, 0, p.stream>>>(
        static_cast<const T*>(p.keys.data), p.keys.stride, p.keys.width, p.n, p.inv_norm, p.first, p.first_slot,
        p.relevance, p.relevance_stride, p.largest_relevance);
  });
}

cudaError_t run_farthest_pair(const FarthestPairParams& p) {
  return with_gram_shape(p.keys, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    return launch_gram<Shape::kThreads>(farthest_pair_kernel<T, Shape>, pair_tiles(p.n),
                                        kMaxDistanceSharedBytes<GreedyKey, Shape>, p.stream, gram_rows<T>(p.keys, p.n),
                                        p.inv_norm, p.slot);
  });
}

cudaError_t run_farthest_points(const FarthestPointsParams& p) {
  // Every byte: 3.4e38, farther than any distance.
  const cudaError_t error = cudaMemsetAsync(p.nearest, 0x7f, sizeof(float) * static_cast<size_t>(p.n), p.stream);
  if (error != cudaSuccess) return error;
  return with_type(p.keys.dtype, [&](auto element) {
    using T = decltype(element);
    for (int t = 1; t < p.count; ++t)
      farthest_step_kernel<T><<<token_blocks(p.n), kGreedyThreads, kGreedySharedBytes, p.stream>>>(
          static_cast<const T*>(p.keys.data), p.keys.stride, p.keys.width, p.inv_norm, p.n, p.slots + t - 1,
          p.slots + t, p.nearest);
    farthest_result_kernel<<<result_blocks(p.count), kGreedyThreads, 0, p.stream>>>(p.slots, p.count, p.chosen);
  });
}

cudaError_t run_dpp_select(const DppSelectParams& p) {
  return with_type(p.keys.dtype, [&](auto element) {
    using T = decltype(element);
    for (int t = 0; t < p.count; ++t)
      dpp_step_kernel<T><<<token_blocks(p.n), kGreedyThreads, 2 * kGreedySharedBytes, p.stream>>>(p, t);
    dpp_result_kernel<<<result_blocks(p.count), kGreedyThreads, 0, p.stream>>>(p);
  });
}

}  // namespace pact
