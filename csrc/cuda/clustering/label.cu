#include "label_kernel.cuh"
#include "select.h"

namespace pact {
namespace {

template <typename T>
cudaError_t launch(const LabelParams& p) {
  constexpr int kWarps = kLabelThreads / 32;
  label_kernel<T><<<(p.n - 1) / kWarps + 1, kLabelThreads, 0, p.stream>>>(
      static_cast<const T*>(p.keys.data), p.keys.stride, p.keys.width, GramNorms(p.keys.inv_norm, p.keys.index),
      p.adjacency, p.is_center, p.position, p.words, p.n, p.scatter, p.labels);
  return cudaGetLastError();
}

}  // namespace

cudaError_t run_label(const LabelParams& params) {
  if (params.n <= 0) return cudaSuccess;
  switch (params.keys.dtype) {
    case Dtype::kFloat32:
      return launch<float>(params);
    case Dtype::kFloat16:
      return launch<device::float16>(params);
    case Dtype::kBFloat16:
      return launch<device::bfloat16>(params);
  }
  return cudaErrorInvalidValue;
}

cudaError_t run_centers_to_tokens(const CentersToTokensParams& p) {
  if (p.capacity <= 0) return cudaSuccess;
  centers_to_tokens_kernel<<<(p.capacity - 1) / kLabelThreads + 1, kLabelThreads, 0, p.stream>>>(
      p.centers, p.index, p.count, p.out32, p.out64);
  return cudaGetLastError();
}

}  // namespace pact
