// EUTI scores, and the split by score.
#pragma once

#include "../launch.h"

namespace pact {

struct EutiParams {
  DeviceRows hidden;   // [n, d]; any alignment
  DeviceRows keys;     // [n, Hk * dh]
  DeviceRows queries;  // [n, Hq * dh]
  int n;
  int head_size, query_heads, group;  // dh, Hq, Hq / Hk
  float scale;
  float* scores;    // [n]
  int* bad;         // set to 1 when an input is NaN or Inf (never cleared); or null
  void* workspace;  // euti_workspace_bytes(...)
  cudaStream_t stream;
};
cudaError_t run_euti(const EutiParams& params);
size_t euti_workspace_bytes(int n, int head_size, int query_heads);

// The m largest scores, ties by lower index: kept [m] and dropped [n - m], both ascending token numbers.
struct SplitParams {
  const float* scores;  // [n]; NaN counts as the lowest and sets *bad
  int n, m;
  int* kept;
  int* dropped;
  int* bad;         // or null
  void* workspace;  // split_workspace_bytes(n)
  cudaStream_t stream;
};
cudaError_t run_split(const SplitParams& params);
size_t split_workspace_bytes(int n);

}  // namespace pact
