// Launching a Gram kernel: the element type and the shared memory.
#pragma once

#include <type_traits>

#include "gram.cuh"
#include "launch.h"

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

// Calls f(element, fold) for the rows' element type, and whether rows so wide want folded sums on the current device.
template <typename F>
cudaError_t with_gram_type(const DeviceRows& rows, const F& f) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
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
