// What every launcher's Params have in common. No torch here, and no device code.
//
// Launchers only enqueue work on the stream: no synchronisation, no allocation, capturable in a CUDA graph. Pointers
// are device memory. They return the first CUDA error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "../dtype.h"

namespace pact {

// Rows of elements: row i starts at data + i * stride (in elements). "Aligned" rows start on 16 bytes and have a
// width that is a whole number of 16-byte vectors; run_prepare_keys makes them so.
struct DeviceRows {
  const void* data;
  Dtype dtype;
  int64_t stride;
  int width;
};

// Keys as run_prepare_keys leaves them, for a Gram kernel: aligned rows and their norms; and of them those that an
// index names, so that row i is row index[i].
struct KeyRows : DeviceRows {
  const double* inv_norm;  // of all the rows
  const int* index;        // or null
};

// Densities are summed in fixed point, in units of 2^-32: integer atomics, so the order of the sum cannot be seen.
constexpr double kDensityUnit = 0x1p-32;

}  // namespace pact
