// Launching a Gram kernel: the element type and the shared memory.
#pragma once

#include <type_traits>

#include "../launch.h"
#include "gram.cuh"

namespace pact {

// Calls f(element) for the dtype; what it launched, or why it could not.
template <typename F>
cudaError_t with_type(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat32:
      f(float());
      break;
    case Dtype::kFloat16:
      f(device::float16());
      break;
    case Dtype::kBFloat16:
      f(device::bfloat16());
      break;
  }
  return cudaGetLastError();
}

template <typename T>
GramRows<T> gram_rows(const DeviceRows& rows, int count) {
  constexpr int kVector = device::kPerVector<T>;
  return {static_cast<const device::Vector<T>*>(rows.data), rows.stride / kVector, rows.width / kVector, count};
}

template <typename T>
GramRows<T> gram_rows(const KeyRows& keys, int count) {
  GramRows<T> rows = gram_rows<T>(static_cast<const DeviceRows&>(keys), count);
  rows.index = keys.index;
  return rows;
}

inline GramNorms gram_norms(const KeyRows& keys) { return {keys.inv_norm, keys.index}; }

// The current device's, the first number.
inline cudaError_t compute_capability(int* major) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error == cudaSuccess ? cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device) : error;
}

// Calls f(element, fold) for the rows' element type, and whether rows so wide want folded sums on such a device.
template <typename F>
cudaError_t with_gram_type(const DeviceRows& rows, int major, const F& f) {
  const auto with_fold = [&](auto element) {
    using T = decltype(element);
    return fold_sums<T>(rows.width, major) ? f(element, std::true_type()) : f(element, std::false_type());
  };
  switch (rows.dtype) {
    case Dtype::kFloat32:
      return f(float(), std::true_type());
    case Dtype::kFloat16:
      return with_fold(device::float16());
    case Dtype::kBFloat16:
      return with_fold(device::bfloat16());
  }
  return cudaErrorInvalidValue;
}
template <typename F>
cudaError_t with_gram_type(const DeviceRows& rows, const F& f) {
  int major = 0;
  const cudaError_t error = compute_capability(&major);
  return error == cudaSuccess ? with_gram_type(rows, major, f) : error;
}

// Calls f(element, shape): who multiplies such rows on the current device. PACT_HAS_SM90A: there is code for Hopper's
// warpgroups, which a card that compiles another's intermediate code does not have.
template <typename F>
cudaError_t with_gram_shape(const DeviceRows& rows, const F& f) {
  int major = 0;
  const cudaError_t error = compute_capability(&major);
  if (error != cudaSuccess) return error;
  return with_gram_type(rows, major, [&](auto element, auto fold) {
    constexpr bool kFold = decltype(fold)::value;
#if defined(PACT_HAS_SM90A) || defined(PACT_EMULATED)
    if constexpr (sizeof(element) == 2)
      if (major == 9) return f(element, Groups<kFold>());
#endif
    return f(element, WarpsFor<kFold>());
  });
}

// By Shape, or by so many threads.
template <int kThreads = kGramThreads, typename... Params, typename... Args>
cudaError_t launch_gram(void (*kernel)(Params...), int64_t blocks, unsigned shared_bytes, cudaStream_t stream,
                        Args... args) {
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), kThreads, shared_bytes, stream>>>(args...);
  return cudaGetLastError();
}

}  // namespace pact
