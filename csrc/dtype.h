// Element types the operators take. Plain C++: both the SIMD kernels and the device code include it.
#pragma once

namespace pact {

enum class Dtype { kFloat32, kFloat16, kBFloat16 };

}  // namespace pact
