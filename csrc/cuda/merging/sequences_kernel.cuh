// A thread per number, or row: what there is to do is small beside a launch.
#pragma once

#include "../device/platform.cuh"

namespace pact {

constexpr int kSequenceThreads = 256;
constexpr int kNumbersPerLaunch = 960;  // of the 4 KiB that a kernel's arguments may take

struct StoredNumbers {
  int at[kNumbersPerLaunch];
};

__global__ void __launch_bounds__(kSequenceThreads)
    store_kernel(const StoredNumbers numbers, int count, int* __restrict__ out) {
  const int i = int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
  if (i < count) out[i] = numbers.at[i];
}

// The sequence of row i: the last of those that begin at it or before it. (Others that begin there have no rows.)
__device__ inline int sequence_of(const int* __restrict__ cu_rows, int sequences, int i) {
  int first = 0, behind = sequences;
  while (behind - first > 1) {
    const int middle = first + (behind - first) / 2;
    (cu_rows[middle] <= i ? first : behind) = middle;
  }
  return first;
}

__global__ void __launch_bounds__(kSequenceThreads)
    number_through_kernel(int sequences, int n, const int* __restrict__ cu_rows, const int* __restrict__ cu_centers,
                          const int* __restrict__ center_token, const int* __restrict__ counts,
                          int64_t* __restrict__ labels, int64_t* __restrict__ centers) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int b = sequence_of(cu_rows, sequences, int(i));
  const int first_row = cu_rows[b], first_center = cu_centers[b], own = int(i) - first_row;
  if (labels[i] >= 0) labels[i] += first_center;
  if (own < (counts ? counts[b] : cu_centers[b + 1] - first_center))
    centers[first_center + own] = first_row + center_token[i];
}

}  // namespace pact
