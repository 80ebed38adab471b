// The nearest centre of every token, dense: Gram tiles of tokens x centres with a running minimum.
#pragma once

#include "../launch.h"

namespace pact {

// The lexicographic minimum of (distance bits << 32 | position): integer atomics, so ties and order are decided.
using NearestKey = unsigned long long;

struct NearestParams {
  KeyRows tokens;          // [n, dk]
  const int* token_index;  // [n] token number of each row, or null for 0..n-1
  int n;
  const int* token_count;   // device: how many of them are in use, or null for n; the index of others is not read
  KeyRows centers;          // [capacity, dk]
  const int* center_token;  // [capacity] token number of each centre; < 0: not a centre, skipped. A token is at
                            // distance 0 from itself, whatever its vector
  int capacity;             // rows in `centers`
  const int* count;     // device: how many of them are in use, or null for `capacity`; the index of others is not read
  NearestKey* nearest;  // [n], overwritten; all ones when there is no centre
  cudaStream_t stream;
};
cudaError_t run_nearest(const NearestParams& params);

// labels[i] = position when distance < limit (a float compare; limit = infinity accepts all), else -1.
struct NearestToLabelsParams {
  const NearestKey* nearest;  // [n]
  int n;
  const int* count;  // device: how many of them are in use, or null for n
  float limit;
  const int* scatter;  // [n] where in labels/distances result i goes, or null for i
  int64_t* labels;
  float* distances;  // or null
  cudaStream_t stream;
};
cudaError_t run_nearest_to_labels(const NearestToLabelsParams& params);

}  // namespace pact
