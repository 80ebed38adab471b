#include <algorithm>

#include "../order/rank_launch.h"
#include "select.h"
#include "select_kernel.cuh"

namespace pact {
namespace {

constexpr int kSelectBlocks = 1056;  // eight for each multiprocessor of an H200; more would only wait

struct Workspace {
  Workspace(void* memory, int n)
      : state(static_cast<SelectState*>(memory)),
        next(reinterpret_cast<int*>(state + state_words(n))),
        rank(next + 1),
        order(rank + n) {}
  static size_t state_words(int n) { return (size_t(n) + 31) / 32; }
  static size_t bytes(int n) { return state_words(n) * sizeof(SelectState) + (2 * size_t(n) + 1) * sizeof(int); }
  SelectState* state;
  int *next, *rank, *order;
};

template <int kWords>
void launch_select(const SelectParams& p, const Workspace& w) {
  const int warps = kSelectThreads / 32;
  const int blocks = std::min((p.n - 1) / warps + 1, kSelectBlocks);
  select_kernel<kWords>
      <<<blocks, kSelectThreads, 0, p.stream>>>(p.adjacency, p.words, p.n, w.rank, w.order, w.next, w.state);
}

}  // namespace

size_t select_workspace_bytes(int n) { return Workspace::bytes(n); }

cudaError_t run_select(const SelectParams& p) {
  if (p.n <= 0) return cudaMemsetAsync(p.count, 0, sizeof(int), p.stream);
  const Workspace w(p.workspace, p.n);
  const StartSelect start{{w.rank, w.order}, w.next, w.state};
  const cudaError_t error = launch_rank(DensityPriority{p.density}, p.n, start, p.stream);
  if (error != cudaSuccess) return error;
  if (p.n <= 8 * kTokensOfWords)
    launch_select<8>(p, w);
  else
    launch_select<16>(p, w);
  select_compact_kernel<<<1, kCompactThreads, kCompactSharedBytes, p.stream>>>(w.state, p.n, p.words, p.count,
                                                                               p.centers, p.position, p.is_center);
  return cudaGetLastError();
}

}  // namespace pact
