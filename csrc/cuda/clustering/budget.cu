#include "../gram/gram_launch.h"
#include "../order/rank_launch.h"
#include "budget.h"
#include "budget_kernel.cuh"

namespace pact {
namespace {

// The workspace; the sizes start at zero.
struct Workspace {
  Workspace(void* memory, int n)
      : number(static_cast<unsigned long long*>(memory)), size(reinterpret_cast<int*>(number + n)), rank(size + n) {}
  unsigned long long* number;
  int *size, *rank;
};

unsigned blocks_for(int n, int per_block) { return unsigned((int64_t(n) + per_block - 1) / per_block); }

template <typename T>
void launch_numbers(const BudgetParams& p, const Workspace& w) {
  budget_number_kernel<T><<<blocks_for(p.n, kBudgetThreads / 32), kBudgetThreads, 0, p.stream>>>(
      static_cast<const T*>(p.keys.data), p.keys.stride, p.keys.width, p.keys.index, p.density, p.label, w.size, p.n,
      p.wanted, p.at_most, p.count, p.centers, p.position, w.number);
}

cudaError_t launch_numbers_of(const BudgetParams& p, const Workspace& w) {
  return with_type(p.keys.dtype, [&](auto element) { launch_numbers<decltype(element)>(p, w); });
}

}  // namespace

size_t budget_workspace_bytes(int n) { return size_t(n) * (sizeof(unsigned long long) + 2 * sizeof(int)); }

cudaError_t run_budget(const BudgetParams& p) {
  const Workspace w(p.workspace, p.n);
  cudaError_t error = cudaMemsetAsync(w.size, 0, size_t(p.n) * sizeof(int), p.stream);
  if (error != cudaSuccess) return error;
  cluster_size_kernel<<<blocks_for(p.n, kBudgetThreads), kBudgetThreads, 0, p.stream>>>(p.label, p.n, w.size);
  error = launch_numbers_of(p, w);
  if (error == cudaSuccess) error = launch_rank(NumberPriority{w.number}, p.n, StoreRank{w.rank}, p.stream);
  if (error != cudaSuccess) return error;
  budget_compact_kernel<<<1, kBudgetScanThreads, kBudgetScanBytes, p.stream>>>(
      w.rank, p.n, p.wanted, p.at_most, p.words, p.count, p.centers, p.position, p.is_center);
  return cudaGetLastError();
}

cudaError_t run_unlabelled(const UnlabelledParams& p) {
  unlabelled_kernel<<<1, kBudgetScanThreads, kBudgetScanBytes, p.stream>>>(p.labels, p.index, p.n, p.count, p.tokens);
  return cudaGetLastError();
}

cudaError_t run_singletons(const SingletonsParams& p) {
  singletons_kernel<<<blocks_for(p.n, kBudgetThreads), kBudgetThreads, 0, p.stream>>>(p.index, p.n, p.tokens, p.centers,
                                                                                      p.labels);
  return cudaGetLastError();
}

}  // namespace pact
