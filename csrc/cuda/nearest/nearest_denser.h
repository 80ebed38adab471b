// For every token the nearest of those that outrank it, by density descending, then index ascending.
#pragma once

#include "assign.h"

namespace pact {

struct DensityOrderParams {
  const float* density;  // [n]; both zeros are one, NaN comes last
  int n;
  int* rank;   // [n], overwritten
  int* order;  // [n] the token of each rank
  cudaStream_t stream;
};
cudaError_t run_density_order(const DensityOrderParams& params);

struct NearestDenserParams {
  KeyRows keys;      // [n, dk], listed in rank order
  const int* order;  // [n] the token of each row
  int n;
  NearestKey* nearest;  // [n], overwritten
  unsigned* farthest;   // [1], overwritten
  float* distances;     // [n] by token; of the first row, the largest of its distances (0 for one row)
  int64_t* indices;     // [n] by token, ties to the lower one; -1 for the first row
  cudaStream_t stream;
};
cudaError_t run_nearest_denser(const NearestDenserParams& params);

}  // namespace pact
