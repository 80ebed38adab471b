#include "center_order_kernel.cuh"
#include "rank_launch.h"

namespace pact {

cudaError_t run_center_order(const CenterOrderParams& params) {
  return launch_rank(CenterPriority{params.centers, params.n}, params.count, StoreCenter{params}, params.stream);
}

cudaError_t run_relabel(const RelabelParams& params) {
  constexpr int kThreads = 256;
  const unsigned blocks = unsigned((int64_t{params.n} + kThreads - 1) / kThreads);
  relabel_kernel<<<blocks, kThreads, 0, params.stream>>>(params);
  return cudaGetLastError();
}

}  // namespace pact
