// Greedy centre selection on adjacency bits in priority order, and labels from the bits.
#pragma once

#include "../launch.h"

namespace pact {

struct SelectParams {
  const unsigned long long* density;  // [n] as run_density leaves it; priority: float32 of it descending, then index
  const uint32_t* adjacency;          // [n][words]; symmetric, every token its own neighbour
  int words;
  int n;
  int* count;           // [1] number of centres c
  int* centers;         // [n]: the first c are the centres, ascending; the rest is untouched
  int* position;        // [n]: a centre's position among the centres, -1 for other tokens
  uint32_t* is_center;  // [words] bits
  void* workspace;      // select_workspace_bytes(n)
  cudaStream_t stream;
};
cudaError_t run_select(const SelectParams& params);
size_t select_workspace_bytes(int n);

// labels[scatter ? scatter[i] : i] = position of the nearest centre among i's neighbours, ties to the lower position.
// A token with one candidate needs no distance.
struct LabelParams {
  KeyRows keys;  // [n, dk]
  const uint32_t* adjacency;
  const uint32_t* is_center;
  const int* position;
  int words;
  int n;
  const int* scatter;  // [n], or null
  int64_t* labels;
  cudaStream_t stream;
};
cudaError_t run_label(const LabelParams& params);

// out[p] = index ? index[centers[p]] : centers[p], p < *count; as int64 when out64 is given, as int when out32 is.
struct CentersToTokensParams {
  const int* centers;
  const int* index;
  const int* count;
  int capacity;
  int* out32;
  int64_t* out64;
  cudaStream_t stream;
};
cudaError_t run_centers_to_tokens(const CentersToTokensParams& params);

}  // namespace pact
