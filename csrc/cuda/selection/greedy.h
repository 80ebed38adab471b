// Greedy selections: one launch per token chosen. A choice is a maximum of 64-bit keys in a slot of device memory,
// which the next launch reads: nothing comes back to the host.
#pragma once

#include "../launch.h"

namespace pact {

// (order-preserving bits of a value) << 32 | ~token: of equal values the lower token is larger. 0: no token came.
using GreedyKey = unsigned long long;

// inv_norm[i] = 1 / ||row i||, 0 for a zero row, the squared norm summed as the steps sum their products: equal rows
// are at distance 0. Also prepares what a selection starts from.
struct GreedyStartParams {
  DeviceRows keys;  // [n, dk], aligned
  int n;
  double* inv_norm;        // [n]
  int first;               // < n: the first choice, written to *first_slot; -1 leaves that
  GreedyKey* first_slot;   // or null
  const float* relevance;  // [n], elements `relevance_stride` apart; or null
  int64_t relevance_stride;
  unsigned* largest_relevance;  // [1] zero before: bits of the largest magnitude
  cudaStream_t stream;
};
cudaError_t run_greedy_start(const GreedyStartParams& params);

// slot: zero before; the largest distance of any pair, and the lowest token that has it.
struct FarthestPairParams {
  DeviceRows keys;         // [n, dk], aligned
  const double* inv_norm;  // [n] of run_norms
  int n;
  GreedyKey* slot;
  cudaStream_t stream;
};
cudaError_t run_farthest_pair(const FarthestPairParams& params);

struct FarthestPointsParams {
  DeviceRows keys;         // [n, dk], aligned
  const double* inv_norm;  // [n] of run_greedy_start
  int n, count;
  GreedyKey* slots;  // [count]: the first holds the first choice (0: token 0), the others 0
  float* nearest;    // [n], overwritten
  int64_t* chosen;   // [count]
  cudaStream_t stream;
};
cudaError_t run_farthest_points(const FarthestPointsParams& params);

struct DppSelectParams {
  DeviceRows keys;         // [n, dk], aligned
  const double* inv_norm;  // [n] of run_greedy_start
  const float* relevance;  // [n], elements `relevance_stride` apart
  int64_t relevance_stride;
  const unsigned* largest_relevance;  // [1] of run_greedy_start
  int n, count;
  GreedyKey* gain_slots;       // [count], 0
  GreedyKey* relevance_slots;  // [count], 0
  float* gain;                 // [n], overwritten
  float* entries;              // [n][count], overwritten
  int64_t* chosen;             // [count]
  cudaStream_t stream;
};
cudaError_t run_dpp_select(const DppSelectParams& params);

}  // namespace pact
