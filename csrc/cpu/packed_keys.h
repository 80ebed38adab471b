// Keys packed into panels for the Gram micro-kernel, and what the CPU operators need around a tensor.
#pragma once

#include "../arguments.h"
#include "memory.h"
#include "parallel.h"
#include "simd/kernels.h"

namespace pact {

// An argument's elements as rows [n, width]: made contiguous, trailing dimensions flattened. `owner` keeps the memory.
struct InputRows {
  InputRows(Argument arg, const Tensor& t);
  void check_finite() const;
  // The rows [begin, end).
  InputRows range(int64_t begin, int64_t end) const;
  [[noreturn]] void fail_finite() const { arg.fail("must be finite, got NaN or Inf among its values"); }

  Argument arg;
  Tensor owner;
  Rows rows;
  int64_t n;
};

// The same, known to hold neither NaN nor Inf.
struct FiniteRows : InputRows {
  FiniteRows(Argument arg, const Tensor& t) : InputRows(arg, t) { check_finite(); }
};

// `n` tokens rows[index[i]] (rows[i] without an index), packed: 4 * n * dk bytes.
class PackedKeys {
 public:
  PackedKeys(Rows rows, const int64_t* index, int64_t n);

  Panels panels() const { return {data_.data(), inv_norm_.data(), n_, rows_.width}; }
  int64_t n() const { return n_; }
  int64_t dk() const { return rows_.width; }
  double inv_norm(int64_t i) const { return inv_norm_[i]; }
  // Token i's scaled row, unpacked.
  void load_row(int64_t i, float* out) const { kernels().load_row(rows_, index_ ? index_[i] : i, scale_[i], out); }

 private:
  Rows rows_;
  const int64_t* index_;
  int64_t n_;
  Buffer<float> data_, scale_;
  Buffer<double> inv_norm_;
};

}  // namespace pact
