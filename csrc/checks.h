// What the host can see of an operator's arguments: one function per operator, for every backend. What torch.compile
// and meta tensors see is checked by pact_ext/shapes.py, in the same words.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <optional>

#include "describe.h"
#include "dtype.h"

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
  if (t.numel() == 0) arg.fail("must not be empty, got ", shape_of(t));
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

inline Heads check_heads(const char* op, const Tensor& keys, const Tensor& queries) {
  const Argument arg{op, "queries"};
  check_keys({op, "keys"}, keys);
  check_floating(arg, queries);
  check_shape(arg, queries, "[n, Hq * dh] or [n, Hq, dh]", queries.dim() == 2 || queries.dim() == 3);
  const int64_t key_width = keys.numel() / keys.size(0), query_width = queries.numel() / queries.size(0);
  const int64_t size = keys.dim() == 3 ? keys.size(2) : (queries.dim() == 3 ? queries.size(2) : key_width);
  if (queries.dim() == 3 && queries.size(2) != size)
    arg.fail("must have the head size of keys, ", size, ", got ", shape_of(queries));
  if (key_width % size || query_width % size || query_width / size % (key_width / size))
    arg.fail("must have a whole multiple of the heads of keys, heads of ", size, " for keys ", shape_of(keys), ", got ",
             shape_of(queries));
  return {size, query_width / size, query_width / key_width};
}

// The three inputs of the importance score, against each other.
inline Heads check_importance_inputs(const char* op, const Tensor& hidden, const Tensor& keys, const Tensor& queries) {
  check_floating({op, "hidden"}, hidden);
  check_matrix({op, "hidden"}, hidden, "[n, d]");
  const Heads heads = check_heads(op, keys, queries);
  const Argument k{op, "keys"}, q{op, "queries"};
  check_same_device(k, keys, "hidden", hidden);
  check_same_device(q, queries, "hidden", hidden);
  check_same_dtype(k, keys, "hidden", hidden);
  check_same_dtype(q, queries, "hidden", hidden);
  check_rows(k, keys, "hidden", hidden);
  check_rows(q, queries, "hidden", hidden);
  return heads;
}

inline Heads check_euti_scores_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                      const std::optional<double>& scale) {
  const Heads heads = check_importance_inputs("euti_scores", hidden, keys, queries);
  check_scale({"euti_scores", "scale"}, scale);
  return heads;
}

// What the data alone tells, of inputs that are finite themselves.
[[noreturn]] inline void fail_scores(const char* op) {
  fail(op, "the importance scores must be finite, got NaN or Inf: the inputs are too large");
}

inline void check_density_inputs(const Tensor& keys, double dn) {
  check_keys({"density", "keys"}, keys);
  check_normalisation({"density", "dn"}, dn);
}

inline void check_dbdpc_inputs(const Tensor& keys, double dc, double dn) {
  check_keys({"dbdpc", "keys"}, keys);
  check_cutoff({"dbdpc", "dc"}, dc);
  check_normalisation({"dbdpc", "dn"}, dn);
}

inline void check_max_distance_inputs(const Tensor& keys) { check_keys({"max_distance", "keys"}, keys); }

inline void check_assign_inputs(const Tensor& keys, const Tensor& centers, double max_distance) {
  const Argument arg{"assign", "centers"};
  check_keys({"assign", "keys"}, keys);
  check_dtype(arg, centers, ScalarType::Long);
  check_shape(arg, centers, "[c]", centers.dim() == 1);
  check_same_device(arg, centers, "keys", keys);
  check_number({"assign", "max_distance"}, max_distance, "a number", !std::isnan(max_distance));
}

inline void check_segment_mean_inputs(const Tensor& x, const Tensor& labels, int64_t num_segments) {
  const Argument arg{"segment_mean", "labels"};
  check_floating({"segment_mean", "x"}, x);
  check_matrix({"segment_mean", "x"}, x, "[n, d]");
  check_dtype(arg, labels, ScalarType::Long);
  check_shape(arg, labels, "[n]", labels.dim() == 1);
  check_same_device(arg, labels, "x", x);
  check_rows(arg, labels, "x", x);
  check_number({"segment_mean", "num_segments"}, num_segments, "in [1, 2^31)",
               num_segments >= 1 && num_segments <= INT32_MAX);
}

// The numbers of a reduction.
struct Config {
  double prune_ratio, dc, dn, alpha;
  std::optional<double> scale;
  bool gaussian;
};

inline Heads check_reduce_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                 const Tensor& cluster_keys, const std::optional<Tensor>& scores, const Config& c) {
  constexpr const char* op = "reduce";
  const Argument cluster_arg{op, "cluster_keys"}, score_arg{op, "scores"};
  const Heads heads = check_importance_inputs(op, hidden, keys, queries);
  check_keys(cluster_arg, cluster_keys);
  check_same_device(cluster_arg, cluster_keys, "hidden", hidden);
  check_same_dtype(cluster_arg, cluster_keys, "hidden", hidden);
  check_rows(cluster_arg, cluster_keys, "hidden", hidden);
  check_number({op, "prune_ratio"}, c.prune_ratio, "in [0, 1]", c.prune_ratio >= 0 && c.prune_ratio <= 1);
  check_cutoff({op, "dc"}, c.dc);
  check_normalisation({op, "dn"}, c.dn);
  check_number({op, "alpha"}, c.alpha, ">= 0 and finite", c.alpha >= 0 && std::isfinite(c.alpha));
  check_scale({op, "scale"}, c.scale);
  if (scores) {
    check_dtype(score_arg, *scores, ScalarType::Float);
    check_shape(score_arg, *scores, "[n]", scores->dim() == 1);
    check_same_device(score_arg, *scores, "hidden", hidden);
    check_rows(score_arg, *scores, "hidden", hidden);
  }
  return heads;
}

// --- Scalars as the backends compute with them -------------------------------------------------------------------

// The smallest float that is >= x: for floats f, f < x is f < float_at_least(x).
inline float float_at_least(double x) {
  const float f = float(x);
  return double{f} < x ? std::nextafterf(f, INFINITY) : f;
}

// The largest float that is <= x: for floats f, f <= x is f <= float_at_most(x).
inline float float_at_most(double x) {
  const float f = float(x);
  return double{f} > x ? std::nextafterf(f, -INFINITY) : f;
}

// The density term is exp(exponent * dist), or exp(-(exponent * dist)^2).
inline float density_exponent(double dn, bool gaussian) {
  const double inverse = std::min(1 / dn, double{FLT_MAX});
  return float(gaussian ? inverse : -inverse);
}

// How many of n tokens the importance split keeps (contract section 2).
inline int64_t kept_count(int64_t n, double prune_ratio) { return n - int64_t(std::ceil(prune_ratio * double(n - 1))); }

}  // namespace pact
