// The centers that `assign` is given, in any order, brought into ascending order and checked on the device.
#pragma once

#include "../launch.h"

namespace pact {

struct CenterOrderParams {
  const int64_t* centers;  // [count] token numbers, in any order, possibly outside [0, n) or repeated
  int count, n;
  int* token;  // [count] ascending; at the end, -1 for each that is outside [0, n)
  int* row;    // [count] the same with 0 in place of -1: safe to read rows by
  int* order;  // [count] where each was among `centers`; repeated ones in the order given
  cudaStream_t stream;
};
cudaError_t run_center_order(const CenterOrderParams& params);

// labels[i] = order[labels[i]], -1 stays.
struct RelabelParams {
  int64_t* labels;  // [n]
  int n;
  const int* order;
  cudaStream_t stream;
};
cudaError_t run_relabel(const RelabelParams& params);

}  // namespace pact
