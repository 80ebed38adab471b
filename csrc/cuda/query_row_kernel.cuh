// The one query of received attention, in float32, and how many keys it sees: which query that is, only the device may
// know.
#pragma once

#include "attention_rows.cuh"
#include "device/convert.cuh"

namespace pact {

constexpr int kQueryRowThreads = 256;

// query [width], visible [1]; zeros and 0 for a query that there is not.
template <typename T>
__global__ void __launch_bounds__(kQueryRowThreads)
    query_row_kernel(const T* __restrict__ queries, int64_t stride, int width, AttentionRows rows, int n,
                     float* __restrict__ query, int* __restrict__ visible) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kQueryRowThreads + threadIdx.x;
  const int64_t row = chosen_row(rows, 0);
  if (k < width) query[k] = row < 0 ? 0.0f : device::to_float(queries[row * stride + k]);
  if (k == 0) *visible = visible_keys(rows, row, n);
}

}  // namespace pact
