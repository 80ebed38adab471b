// Keys made ready for the Gram kernels: aligned rows, and reciprocal norms.
#pragma once

#include "launch.h"

namespace pact {

// Copies token i = rows[index ? index[i] : i] to `out` [n, out_width] in the same dtype, zero-padded to out_width.
struct PackRowsParams {
  DeviceRows rows;
  const int* index;  // [n], or null
  int n;
  void* out;
  int out_width;  // a multiple of 16 bytes, >= rows.width
  cudaStream_t stream;
};
cudaError_t run_pack_rows(const PackRowsParams& params);

// inv_norm[i] = 1 / ||row i||, 0 for a zero row. *bad is set to 1 when an element is NaN or Inf (never cleared).
struct NormsParams {
  DeviceRows rows;
  int n;
  float* inv_norm;
  int* bad;  // or null
  cudaStream_t stream;
};
cudaError_t run_norms(const NormsParams& params);

}  // namespace pact
