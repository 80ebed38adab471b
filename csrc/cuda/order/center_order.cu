#include "center_order_kernel.cuh"

namespace pact {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t run_center_order(const CenterOrderParams& params) {
  center_order_kernel<<<blocks_for(int64_t{params.count} * 32), kThreads, 0, params.stream>>>(params);
  return cudaGetLastError();
}

cudaError_t run_relabel(const RelabelParams& params) {
  relabel_kernel<<<blocks_for(params.n), kThreads, 0, params.stream>>>(params);
  return cudaGetLastError();
}

}  // namespace pact
