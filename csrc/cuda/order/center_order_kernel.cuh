// Centers by their tokens, as ranks; and labels of centers in that order, as those of the order that was given.
#pragma once

#include "center_order.h"
#include "rank_kernel.cuh"

namespace pact {

// The lower token first; centers outside [0, n) behind all others.
struct CenterPriority {
  const int64_t* centers;
  int n;
  __device__ unsigned operator()(int64_t i) const {
    const int64_t center = centers[i];
    return center >= 0 && center < n ? unsigned(n - center) + 1 : 1;
  }
};

struct StoreCenter {
  CenterOrderParams params;
  __device__ void operator()(int64_t i, int own) const {
    const int64_t center = params.centers[i];
    const bool inside = center >= 0 && center < params.n;
    params.token[own] = inside ? int(center) : -1;
    params.row[own] = inside ? int(center) : 0;
    params.order[own] = int(i);
  }
};

__global__ void relabel_kernel(RelabelParams params) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < params.n && params.labels[i] >= 0) params.labels[i] = params.order[params.labels[i]];
}

}  // namespace pact
