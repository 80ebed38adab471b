// A warp per center counts the centers that come before it: c^2 comparisons, nothing beside the n * c distances that
// follow, and no workspace.
#pragma once

#include "../device/warp.cuh"
#include "center_order.h"

namespace pact {

// Centers outside [0, n) sort behind all others.
__device__ __forceinline__ int64_t center_sort_key(int64_t center, int n) {
  return center >= 0 && center < n ? center : n;
}

__global__ void center_order_kernel(CenterOrderParams params) {
  const int64_t p = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (p >= params.count) return;  // the whole warp
  const int64_t key = center_sort_key(params.centers[p], params.n);
  int before = 0;
  for (int64_t q = device::lane_id(); q < params.count; q += 32) {
    const int64_t other = center_sort_key(params.centers[q], params.n);
    before += other < key || (other == key && q < p);
  }
  const int rank = device::warp_sum(before);
  if (device::lane_id() == 0) {
    params.token[rank] = key < params.n ? static_cast<int>(key) : -1;
    params.row[rank] = key < params.n ? static_cast<int>(key) : 0;
    params.order[rank] = static_cast<int>(p);
  }
}

__global__ void relabel_kernel(RelabelParams params) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < params.n && params.labels[i] >= 0) params.labels[i] = params.order[params.labels[i]];
}

}  // namespace pact
