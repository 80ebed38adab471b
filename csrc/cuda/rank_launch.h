// Launching the kernels that rank.
#pragma once

#include <algorithm>

#include "launch.h"
#include "rank_kernel.cuh"

namespace pact {

inline unsigned rank_tiles(int n) { return unsigned((int64_t(n) + kRankTile - 1) / kRankTile); }

// rank [n] starts at zero.
template <typename Priority>
cudaError_t launch_rank(const Priority& priority, int n, int* rank, cudaStream_t stream) {
  const dim3 grid(rank_tiles(n), std::min(rank_tiles(n), 65535u));
  rank_kernel<Priority><<<grid, kRankTile, kRankSharedBytes<Priority>, stream>>>(priority, n, rank);
  return cudaGetLastError();
}

inline cudaError_t launch_order(const int* rank, int n, int* order, cudaStream_t stream) {
  order_kernel<int><<<rank_tiles(n), kRankTile, 0, stream>>>(rank, n, order);
  return cudaGetLastError();
}

}  // namespace pact
