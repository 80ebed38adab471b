// What the host can see of one argument, in the words of every operator's errors. arguments.h has the operators.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "describe.h"
#include "dtype.h"
#include "sequences.h"

namespace pact {

// Of a tensor that check_floating accepts.
inline Dtype dtype_of(const Tensor& t) {
  switch (scalar_type(t)) {
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    default:
      return Dtype::kFloat32;
  }
}

inline void check_tensor(Argument arg, const Tensor& t) {
  if (!t.defined()) arg.fail("must be a tensor, got None");
}

inline void check_dtype(Argument arg, const Tensor& t, ScalarType wanted) {
  check_tensor(arg, t);
  if (scalar_type(t) != wanted) arg.fail("must be ", dtype_name(wanted), ", got ", dtype_name(scalar_type(t)));
}

inline void check_floating(Argument arg, const Tensor& t) {
  check_tensor(arg, t);
  const ScalarType found = scalar_type(t);
  if (found != ScalarType::Float && found != ScalarType::Half && found != ScalarType::BFloat16)
    arg.fail("must be float32, float16 or bfloat16, got ", dtype_name(found));
}

inline void check_same_dtype(Argument arg, const Tensor& t, const char* other_name, const Tensor& other) {
  if (scalar_type(t) != scalar_type(other))
    arg.fail("must have the dtype of ", other_name, ", ", dtype_name(scalar_type(other)), ", got ",
             dtype_name(scalar_type(t)));
}

inline void check_same_device(Argument arg, const Tensor& t, const char* other_name, const Tensor& other) {
  const std::string wanted = device_of(other), found = device_of(t);
  if (found != wanted) arg.fail("must be on the device of ", other_name, ", ", wanted, ", got ", found);
}

inline void check_shape(Argument arg, const Tensor& t, const char* wanted, bool ok) {
  if (!ok) arg.fail("must be ", wanted, ", got ", shape_of(t));
  if (arg.op.packed ? width_of(t) == 0 : t.numel() == 0) arg.fail("must not be empty, got ", shape_of(t));
  if (t.size(0) > INT32_MAX) arg.fail("must have fewer than 2^31 rows, got ", shape_of(t));
}

inline void check_matrix(Argument arg, const Tensor& t, const char* wanted) {
  check_shape(arg, t, wanted, t.dim() == 2);
}

inline void check_keys(Argument arg, const Tensor& t) {
  check_floating(arg, t);
  check_shape(arg, t, "[n, dk] or [n, Hk, dh]", t.dim() == 2 || t.dim() == 3);
}

// A second per-token tensor beside `other`.
inline void check_rows(Argument arg, const Tensor& t, const char* other_name, const Tensor& other) {
  if (t.size(0) != other.size(0))
    arg.fail("must have as many rows as ", other_name, ", ", other.size(0), ", got ", shape_of(t));
}

template <typename Number>
void check_number(Argument arg, Number value, const char* wanted, bool ok) {
  if (!ok) arg.fail("must be ", wanted, ", got ", value);
}

inline void check_cutoff(Argument arg, double dc) { check_number(arg, dc, ">= 0", dc >= 0); }

inline void check_normalisation(Argument arg, double dn) {
  check_number(arg, dn, "> 0 and finite", dn > 0 && std::isfinite(dn));
}

inline void check_scale(Argument arg, const std::optional<double>& scale) {
  if (scale) check_number(arg, *scale, "finite in float32", std::abs(*scale) <= FLT_MAX);
}

// Heads of keys and queries for the importance score. A two-dimensional tensor takes the head size of the other.
struct Heads {
  int64_t size;     // dh
  int64_t queries;  // Hq
  int64_t group;    // Hq / Hk
};

inline Heads check_heads(Operator op, const Tensor& keys, const Tensor& queries) {
  const Argument arg{op, "queries"};
  check_keys({op, "keys"}, keys);
  check_floating(arg, queries);
  check_shape(arg, queries, "[n, Hq * dh] or [n, Hq, dh]", queries.dim() == 2 || queries.dim() == 3);
  const int64_t key_width = width_of(keys), query_width = width_of(queries);
  const int64_t size = keys.dim() == 3 ? keys.size(2) : (queries.dim() == 3 ? queries.size(2) : key_width);
  if (queries.dim() == 3 && queries.size(2) != size)
    arg.fail("must have the head size of keys, ", size, ", got ", shape_of(queries));
  if (key_width % size || query_width % size || query_width / size % (key_width / size))
    arg.fail("must have a whole multiple of the heads of keys, heads of ", size, " for keys ", shape_of(keys), ", got ",
             shape_of(queries));
  return {size, query_width / size, query_width / key_width};
}

// A float32 number per token, beside `other`.
inline void check_per_token(Argument arg, const Tensor& t, const char* other_name, const Tensor& other) {
  check_dtype(arg, t, ScalarType::Float);
  check_shape(arg, t, "[n]", t.dim() == 1);
  check_same_device(arg, t, other_name, other);
  check_rows(arg, t, other_name, other);
}

// How many tokens of those in `keys`.
inline void check_count(Argument arg, int64_t count, const Tensor& keys) {
  if (count < 1 || count > keys.size(0))
    arg.fail("must be at least 1 and at most the rows of keys, ", keys.size(0), ", got ", count);
}

// Where each of B sequences begins among the rows of `other`, and where the last ends: [B + 1], as variable-length
// attention takes it.
inline void check_sequences(Argument arg, const Tensor& t) {
  check_dtype(arg, t, ScalarType::Int);
  if (t.dim() != 1 || t.size(0) < 1) arg.fail("must be [B + 1], got ", shape_of(t));
}

// A number per sequence.
inline void check_per_sequence(Argument arg, const Tensor& t, const Tensor& cu_seqlens) {
  check_dtype(arg, t, ScalarType::Int);
  if (t.dim() != 1) arg.fail("must be [B], got ", shape_of(t));
  if (t.size(0) != cu_seqlens.size(0) - 1)
    arg.fail("must have as many numbers as there are sequences in cu_seqlens, ", cu_seqlens.size(0) - 1, ", got ",
             shape_of(t));
}

// The numbers of an int32 tensor, which the host needs.
inline std::vector<int> numbers_on_host(Argument arg, const Tensor& t) {
  if (!t.is_cpu()) arg.fail("must be on the CPU, which sizes the results by it, got ", device_of(t));
  std::vector<int> numbers(t.size(0));
  const int* first = t.const_data_ptr<int>();
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = first[int64_t(i) * t.stride(0)];
  return numbers;
}

inline Sequences read_sequences(Argument arg, const Tensor& t, const char* other_name, const Tensor& other) {
  std::vector<int> begin = numbers_on_host(arg, t);
  if (begin[0] != 0) arg.fail("must begin with 0, got ", begin[0]);
  for (size_t i = 1; i < begin.size(); ++i)
    if (begin[i] < begin[i - 1]) arg.fail("must not descend, as it does after ", begin[i - 1], ", got ", begin[i]);
  if (begin.back() != other.size(0))
    arg.fail("must end with the rows of ", other_name, ", ", other.size(0), ", got ", begin.back());
  return Sequences(std::move(begin));
}

// How many tokens of each sequence.
inline std::vector<int> read_counts(Argument arg, const Tensor& t) {
  const std::vector<int> counts = numbers_on_host(arg, t);
  for (const int count : counts)
    if (count < 1) arg.fail("must be at least 1 for every sequence, got ", count);
  return counts;
}

}  // namespace pact
