#include <algorithm>

#include "rank_launch.h"
#include "select.h"
#include "select_kernel.cuh"

namespace pact {
namespace {

constexpr int kSelectBlocks = 264;  // enough warps for every token to be taken early; more would only wait

// The workspace: what starts at zero (rank, counter, state) first, then the order.
struct Workspace {
  explicit Workspace(int n) : state_words((size_t(n) + 31) / 32) {}
  size_t state_words;
  size_t zeroed(int n) const { return state_words * sizeof(SelectState) + (size_t(n) + 1) * sizeof(int); }
  size_t bytes(int n) const { return zeroed(n) + size_t(n) * sizeof(int); }
};

}  // namespace

size_t select_workspace_bytes(int n) { return Workspace(n).bytes(n); }

cudaError_t run_select(const SelectParams& p) {
  if (p.n <= 0) return cudaMemsetAsync(p.count, 0, sizeof(int), p.stream);
  const Workspace workspace(p.n);
  auto* state = static_cast<SelectState*>(p.workspace);
  int* next = reinterpret_cast<int*>(state + workspace.state_words);
  int* rank = next + 1;
  int* order = rank + p.n;
  const cudaError_t cleared = cudaMemsetAsync(p.workspace, 0, workspace.zeroed(p.n), p.stream);
  if (cleared != cudaSuccess) return cleared;

  cudaError_t error = launch_rank(DensityPriority{p.density}, p.n, rank, p.stream);
  if (error == cudaSuccess) error = launch_order(rank, p.n, order, p.stream);
  if (error != cudaSuccess) return error;
  const int warps = kSelectThreads / 32;
  const int blocks = std::min((p.n - 1) / warps + 1, kSelectBlocks);
  select_kernel<<<blocks, kSelectThreads, 0, p.stream>>>(p.adjacency, p.words, p.n, rank, order, next, state);
  select_compact_kernel<<<1, kCompactThreads, kCompactSharedBytes, p.stream>>>(state, p.n, p.words, p.count, p.centers,
                                                                               p.position, p.is_center);
  return cudaGetLastError();
}

}  // namespace pact
