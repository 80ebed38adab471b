#include "euti.h"
#include "split_kernel.cuh"

namespace pact {
namespace {

template <int kKeys>
cudaError_t launch(const SplitParams& p) {
  split_kernel<kKeys>
      <<<1, kSplitThreads, kSplitSharedBytes, p.stream>>>(p.scores, unsigned(p.n), p.m, p.kept, p.dropped, p.bad);
  return cudaGetLastError();
}

}  // namespace

cudaError_t run_split(const SplitParams& params) {
  if (params.n <= 0) return cudaSuccess;
  if (params.n <= 4 * kSplitThreads) return launch<4>(params);
  if (params.n <= 8 * kSplitThreads) return launch<8>(params);
  return launch<16>(params);
}

size_t split_workspace_bytes(int) { return 0; }

}  // namespace pact
