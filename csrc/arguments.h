// What the host can see of an operator's arguments: one function per operator, for every backend. What torch.compile
// and meta tensors see is checked by pact_ext/shapes.py, in the same words.
#pragma once

#include "checks.h"
#include "scalars.h"

namespace pact {

// The three inputs of the importance score, against each other.
inline Heads check_importance_inputs(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries) {
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

inline Heads check_euti_scores_inputs(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                      const std::optional<double>& scale) {
  const Heads heads = check_importance_inputs(op, hidden, keys, queries);
  check_scale({op, "scale"}, scale);
  return heads;
}

// What the data alone tells, of inputs that are finite themselves.
[[noreturn]] inline void fail_scores(Operator op) {
  fail(op, "the importance scores must be finite, got NaN or Inf: the inputs are too large");
}

inline void check_density_inputs(const Tensor& keys, double dn) {
  check_keys({"density", "keys"}, keys);
  check_normalisation({"density", "dn"}, dn);
}

inline void check_dbdpc_inputs(Operator op, const Tensor& keys, double dc, double dn) {
  check_keys({op, "keys"}, keys);
  check_cutoff({op, "dc"}, dc);
  check_normalisation({op, "dn"}, dn);
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

inline Heads check_reduce_inputs(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                 const Tensor& cluster_keys, const std::optional<Tensor>& scores, const Config& c) {
  const Argument cluster_arg{op, "cluster_keys"};
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
  if (scores) check_per_token({op, "scores"}, *scores, "hidden", hidden);
  return heads;
}

inline Heads check_reduce_to_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                    const Tensor& cluster_keys, int64_t count, const std::optional<Tensor>& scores,
                                    const Config& c) {
  const Heads heads = check_reduce_inputs("reduce_to", hidden, keys, queries, cluster_keys, scores, c);
  check_number({"reduce_to", "count"}, count, "in [1, 2^31)", count >= 1 && count <= INT32_MAX);
  return heads;
}

// --- Packed: the same operators over several sequences, one behind the other ----------------------------------------

constexpr Operator kEutiScoresPacked{"euti_scores_packed", true}, kDbdpcPacked{"dbdpc_packed", true};
constexpr Operator kReducePacked{"reduce_packed", true}, kReduceToPacked{"reduce_to_packed", true};
constexpr Operator kReducePadded{"reduce_padded", true};

inline Heads check_euti_scores_packed_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                             const Tensor& cu_seqlens, const std::optional<double>& scale) {
  const Heads heads = check_euti_scores_inputs(kEutiScoresPacked, hidden, keys, queries, scale);
  check_sequences({kEutiScoresPacked, "cu_seqlens"}, cu_seqlens);
  return heads;
}

inline void check_dbdpc_packed_inputs(const Tensor& keys, const Tensor& cu_seqlens, double dc, double dn) {
  check_dbdpc_inputs(kDbdpcPacked, keys, dc, dn);
  check_sequences({kDbdpcPacked, "cu_seqlens"}, cu_seqlens);
}

inline Heads check_reduce_packed_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                        const Tensor& cluster_keys, const Tensor& cu_seqlens,
                                        const std::optional<Tensor>& scores, const Config& c) {
  const Heads heads = check_reduce_inputs(kReducePacked, hidden, keys, queries, cluster_keys, scores, c);
  check_sequences({kReducePacked, "cu_seqlens"}, cu_seqlens);
  return heads;
}

inline Heads check_reduce_to_packed_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                           const Tensor& cluster_keys, const Tensor& cu_seqlens, const Tensor& counts,
                                           const std::optional<Tensor>& scores, const Config& c) {
  const Heads heads = check_reduce_inputs(kReduceToPacked, hidden, keys, queries, cluster_keys, scores, c);
  check_sequences({kReduceToPacked, "cu_seqlens"}, cu_seqlens);
  check_per_sequence({kReduceToPacked, "counts"}, counts, cu_seqlens);
  return heads;
}

inline Heads check_reduce_padded_inputs(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                        const Tensor& cluster_keys, const Tensor& cu_seqlens, int64_t capacity,
                                        const std::optional<Tensor>& scores, const Config& c) {
  const Heads heads = check_reduce_inputs(kReducePadded, hidden, keys, queries, cluster_keys, scores, c);
  check_sequences({kReducePadded, "cu_seqlens"}, cu_seqlens);
  const int64_t sequences = cu_seqlens.size(0) - 1, most = INT32_MAX / std::max<int64_t>(1, sequences);
  if (capacity < 1 || capacity > most)
    Argument{kReducePadded, "capacity"}.fail("must be in [1, ", most, "] for ", sequences, " sequences, got ",
                                             capacity);
  return heads;
}

// --- What other methods are made of
// ------------------------------------------------------------------------------------

inline Heads check_received_attention_inputs(const Tensor& queries, const Tensor& keys,
                                             const std::optional<Tensor>& rows, std::optional<int64_t> first,
                                             bool causal, const std::optional<double>& scale) {
  constexpr const char* op = "received_attention";
  const Argument q{op, "queries"}, r{op, "rows"};
  check_floating(q, queries);
  const Heads heads = check_heads(op, keys, queries);
  check_same_device({op, "keys"}, keys, "queries", queries);
  check_same_dtype({op, "keys"}, keys, "queries", queries);
  if (rows) {
    check_dtype(r, *rows, ScalarType::Long);
    check_shape(r, *rows, "[r]", rows->dim() == 1);
    check_same_device(r, *rows, "queries", queries);
  }
  if (first) check_number({op, "first"}, *first, "in [0, 2^31)", *first >= 0 && *first <= INT32_MAX);
  if (!first && causal && queries.size(0) > keys.size(0))
    q.fail("must have at most as many rows as keys, ", keys.size(0), ", when `first` does not place them, got ",
           shape_of(queries));
  check_scale({op, "scale"}, scale);
  return heads;
}

inline void check_nearest_denser_inputs(const Tensor& keys, const Tensor& density) {
  check_keys({"nearest_denser", "keys"}, keys);
  check_per_token({"nearest_denser", "density"}, density, "keys", keys);
}

inline void check_farthest_points_inputs(const Tensor& keys, int64_t count, std::optional<int64_t> first) {
  check_keys({"farthest_points", "keys"}, keys);
  check_count({"farthest_points", "count"}, count, keys);
  const int64_t n = keys.size(0);
  if (first && (*first < 0 || *first >= n))
    Argument{"farthest_points", "first"}.fail("must be a row of keys, in [0, ", n, "), got ", *first);
}

inline void check_dpp_select_inputs(const Tensor& keys, const Tensor& relevance, int64_t count) {
  check_keys({"dpp_select", "keys"}, keys);
  check_per_token({"dpp_select", "relevance"}, relevance, "keys", keys);
  check_count({"dpp_select", "count"}, count, keys);
}

}  // namespace pact
