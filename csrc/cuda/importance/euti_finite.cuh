#pragma once

#include "../device/platform.cuh"

namespace pact {

// Neither NaN nor Inf.
__device__ inline bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

}  // namespace pact
