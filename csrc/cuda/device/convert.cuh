// Element types: float, device::float16, device::bfloat16, and 16-byte vectors of them.
#pragma once

#include "platform.cuh"

namespace pact::device {

#ifndef PACT_EMULATED
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(float16 x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ float16 from_float<float16>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
#endif

template <typename T>
constexpr int kPerVector = 16 / sizeof(T);

// One 16-byte load or store.
template <typename T>
struct alignas(16) Vector {
  T at[kPerVector<T>];
};

template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* pointer) {
  return *reinterpret_cast<const Vector<T>*>(pointer);
}
template <typename T>
__device__ __forceinline__ void store_vector(T* pointer, const Vector<T>& vector) {
  *reinterpret_cast<Vector<T>*>(pointer) = vector;
}

}  // namespace pact::device
