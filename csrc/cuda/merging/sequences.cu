#include <algorithm>

#include "sequences.h"
#include "sequences_kernel.cuh"

namespace pact {
namespace {

unsigned blocks_for(int threads) { return unsigned(threads - 1) / kSequenceThreads + 1; }

}  // namespace

cudaError_t run_store(const int* numbers, int count, int* out, cudaStream_t stream) {
  for (int first = 0; first < count; first += kNumbersPerLaunch) {
    const int here = std::min(count - first, kNumbersPerLaunch);
    StoredNumbers some{};
    std::copy_n(numbers + first, here, some.at);
    store_kernel<<<blocks_for(here), kSequenceThreads, 0, stream>>>(some, here, out + first);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t run_number_through(const NumberThroughParams& p) {
  if (p.n <= 0) return cudaSuccess;
  number_through_kernel<<<blocks_for(p.n), kSequenceThreads, 0, p.stream>>>(
      p.sequences, p.n, p.cu_rows, p.cu_centers, p.center_token, p.counts, p.labels, p.centers);
  return cudaGetLastError();
}

}  // namespace pact
