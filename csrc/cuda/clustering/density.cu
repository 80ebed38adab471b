#include "../gram/gram_launch.h"
#include "density.h"
#include "density_kernel.cuh"

namespace pact {
namespace {

template <typename T, typename Shape, bool kGaussian>
cudaError_t launch(const DensityParams& p) {
  return launch_gram<Shape::kThreads>(density_kernel<T, Shape, kGaussian>, pair_tiles(p.n), kDensitySharedBytes<Shape>,
                                      p.stream, gram_rows<T>(p.keys, p.n), gram_norms(p.keys),
                                      term_factor(p.exponent, p.gaussian), p.density, p.cutoff / 2, p.adjacency,
                                      p.words);
}

}  // namespace

cudaError_t run_density(const DensityParams& params) {
  const size_t bytes = sizeof(*params.density) * static_cast<size_t>(params.n);
  const cudaError_t error = cudaMemsetAsync(params.density, 0, bytes, params.stream);
  if (error != cudaSuccess) return error;
  return with_gram_shape(params.keys, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    return params.gaussian ? launch<T, Shape, true>(params) : launch<T, Shape, false>(params);
  });
}

int adjacency_words(int n) { return gram_tiles(n) * kWordsPerTile; }
int adjacency_rows(int n) { return gram_tiles(n) * kGramTile; }

cudaError_t run_density_to_float(const DensityToFloatParams& params) {
  const unsigned blocks = static_cast<unsigned>(gram_tiles(params.n));
  density_to_float_kernel<<<blocks, kGramTile, 0, params.stream>>>(params.density, params.n, params.rho);
  return cudaGetLastError();
}

}  // namespace pact
