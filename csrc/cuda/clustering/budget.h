// A number of centres that is known beforehand, from the clustering that was found; all on the device.
#pragma once

#include "../launch.h"

namespace pact {

// `wanted` of the n tokens, whatever the data. With as many centres found or more, those of the largest
// clusters (then the denser, then the lower index); with fewer, all of them and the tokens farthest from their own
// (then the lower index); or, with `at_most`, just those. What was found is overwritten.
struct BudgetParams {
  KeyRows keys;                       // [n, dk]; norms are not read
  const unsigned long long* density;  // [n] as run_density leaves it
  const int64_t* label;               // [n] positions of the centres found; -1 belongs nowhere
  int n, wanted;                      // wanted <= n
  bool at_most;                       // whether fewer are enough
  int* count;                         // [1] centres found; becomes `wanted`, or stays
  int* centers;                       // [n] the first *count, ascending
  int* position;                      // [n] of a centre among the centres, -1 for other tokens
  uint32_t* is_center;                // [words] bits
  int words;
  void* workspace;  // budget_workspace_bytes(n)
  cudaStream_t stream;
};
cudaError_t run_budget(const BudgetParams& params);
size_t budget_workspace_bytes(int n);

// The tokens whose label is -1, ascending.
struct UnlabelledParams {
  const int64_t* labels;  // of token index[i], or i
  const int* index;       // [n], or null
  int n;
  int* count;   // [1]
  int* tokens;  // [n]: token numbers; behind the last, 0
  cudaStream_t stream;
};
cudaError_t run_unlabelled(const UnlabelledParams& params);

// Every one of the n tokens a centre: tokens[p] = index ? index[p] : p, labels[tokens[p]] = p.
struct SingletonsParams {
  const int* index;
  int n;
  int* tokens;
  int64_t* centers;  // the same as `tokens`, or null
  int64_t* labels;
  cudaStream_t stream;
};
cudaError_t run_singletons(const SingletonsParams& params);

}  // namespace pact
