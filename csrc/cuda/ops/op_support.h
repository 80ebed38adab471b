// What the CUDA operators share on torch's side: the device and its stream, workspace, rows of a tensor, errors.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/device.h>

#include "../../arguments.h"
#include "../../boxed.h"
#include "../gram/keys.h"
#include "../importance/euti.h"
#include "../launch.h"

namespace pact {

using torch::headeronly::DeviceType;

// The device of an operator's inputs, made current for the call, and the stream that torch uses there.
class Launch {
 public:
  Launch(Operator op, const Tensor& input);

  // Raises, naming the operator, unless the launcher succeeded.
  void check(cudaError_t status) const {
    if (status != cudaSuccess) fail(status);
  }

  // Uninitialised, from torch's caching allocator.
  Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype) const;
  Tensor empty_on_host(std::initializer_list<int64_t> shape, ScalarType dtype, bool pinned = false) const;
  Tensor contiguous(const Tensor& t) const;
  void fill_bytes(void* data, int byte, size_t bytes) const { check(cudaMemsetAsync(data, byte, bytes, stream_)); }

  Operator op() const { return op_; }
  cudaStream_t stream() const { return stream_; }

 private:
  [[noreturn]] void fail(cudaError_t status) const;
  [[noreturn]] void fail_allocating(const std::string& wanted) const;

  Operator op_;
  torch::stable::Device device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Several small buffers in one allocation. Reserve first, then allocate once, then ask for the pointers.
class Workspace {
 public:
  template <typename T>
  struct Slot {
    size_t offset;
  };

  template <typename T>
  Slot<T> reserve(int64_t count) {
    const Slot<T> slot{bytes_};
    bytes_ += (size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return slot;
  }
  Slot<char> reserve_bytes(size_t bytes) { return reserve<char>(int64_t(bytes)); }

  void allocate(const Launch& launch) {
    owner_.emplace(launch.empty({int64_t(bytes_)}, ScalarType::Byte));
    base_ = static_cast<char*>(owner_->mutable_data_ptr());
  }

  template <typename T>
  T* operator[](Slot<T> slot) const {
    return reinterpret_cast<T*>(base_ + slot.offset);
  }

 private:
  static constexpr size_t kAlignment = 256;
  size_t bytes_ = kAlignment;
  std::optional<Tensor> owner_;
  char* base_ = nullptr;
};

// A tensor as rows [n, width], trailing dimensions flattened. Rows may lie anywhere; a tensor whose rows are not
// contiguous in themselves is copied. `owner` keeps the memory alive.
struct TensorRows {
  TensorRows(const Launch& launch, const char* name, const Tensor& t);
  // n rows from row `begin` on.
  TensorRows range(int begin, int n) const;
  Tensor owner;
  DeviceRows rows;
  int n;
};

// The n rows as the Gram kernels want them, and their norms: run_prepare_keys. Copied, or used in place where that
// would change nothing.
class GramKeys {
 public:
  GramKeys(const Launch& launch, const DeviceRows& rows, int n, double* inv_norm, int* bad = nullptr);
  const DeviceRows& rows() const { return rows_; }
  // Those from row `begin` on: all, or those that the index names, counted from there.
  KeyRows list(const int* index = nullptr, int begin = 0) const;

 private:
  std::optional<Tensor> owner_;
  DeviceRows rows_;
  const double* inv_norm_;
};

// The importance score of these inputs; the workspace and `scores` are the caller's.
EutiParams euti_params(const Launch& launch, const TensorRows& hidden, const TensorRows& keys,
                       const TensorRows& queries, const Heads& heads, std::optional<double> scale, float* scores,
                       int* bad, void* workspace);

// A few numbers on their way to the host, while the stream goes on with what was enqueued behind them.
class Readback {
 public:
  Readback(const Launch& launch, const int* source, int count);
  ~Readback();
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;
  // The numbers, once they are here.
  const int* wait();

 private:
  const Launch& launch_;
  Tensor host_;
  cudaEvent_t arrived_ = nullptr;
};

// Raises the first argument's error that has a NaN or Inf among its values. Synchronises: for calls known to fail.
struct NamedRows {
  const char* name;
  DeviceRows rows;
};
[[noreturn]] void raise_not_finite(const Launch& launch, int n, const std::vector<NamedRows>& inputs);

// Operators that return as many rows as the data asks for read that number back, which a graph cannot hold.
void check_not_capturing(const Launch& launch);

}  // namespace pact
