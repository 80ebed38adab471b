// Keys made ready for the Gram kernels: aligned rows in range, and reciprocal norms.
#pragma once

#include "../launch.h"

namespace pact {

// Copies the rows to `out` [n, out_width] in the same dtype, zero-padded to out_width. Each
// row of float32 or bfloat16 is scaled by the power of two that brings its largest element into [0.5, 1): exact, no
// distance changes, and no dot product can overflow or vanish. float16 has no such range: aligned rows of it can stay
// where they are, `out` null and out_width their width.
//
// inv_norm[i] = 1 / ||row i||, 0 for a zero row, of the row as it is after that, with the rounding that puts equal keys
// at distance 0. *bad is set to 1 when an element is NaN or Inf (never cleared).
struct PrepareKeysParams {
  DeviceRows rows;
  int n;
  void* out;         // or null
  int out_width;     // a multiple of 16 bytes, >= rows.width
  double* inv_norm;  // [n], or null
  int* bad;          // or null
  cudaStream_t stream;
};
cudaError_t run_prepare_keys(const PrepareKeysParams& params);

// The check alone, of rows that need no norm.
struct CheckRowsParams {
  DeviceRows rows;  // any alignment
  int n;
  int* bad;
  cudaStream_t stream;
};
cudaError_t run_check_rows(const CheckRowsParams& params);

}  // namespace pact
