// Launching the kernels that rank.
#pragma once

#include "../launch.h"
#include "rank_kernel.cuh"

namespace pact {

// Calls store(i, rank of i) on the device.
template <typename Priority, typename Store>
cudaError_t launch_rank(const Priority& priority, int n, const Store& store, cudaStream_t stream) {
  const unsigned blocks = unsigned((int64_t(n) + 31) / 32);
  rank_kernel<Priority, Store><<<blocks, kRankWarps * 32, kRankSharedBytes<Priority>, stream>>>(priority, n, store);
  return cudaGetLastError();
}

}  // namespace pact
