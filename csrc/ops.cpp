// Every operator's schema, once. The backends register their implementations beside their code; what is here besides
// meets the calls that no backend takes.
#include "arguments.h"
#include "boxed.h"

STABLE_TORCH_LIBRARY(pact, m) {
  m.def("euti_scores(Tensor hidden, Tensor keys, Tensor queries, float? scale=None) -> Tensor");
  m.def("density(Tensor keys, float dn, *, bool gaussian=False) -> Tensor");
  m.def("dbdpc(Tensor keys, float dc, float dn, *, bool gaussian=False) -> (Tensor centers, Tensor labels)");
  m.def("assign(Tensor keys, Tensor centers, float max_distance) -> (Tensor labels, Tensor distances)");
  m.def("segment_mean(Tensor x, Tensor labels, SymInt num_segments) -> (Tensor means, Tensor counts)");
  m.def("max_distance(Tensor keys) -> Tensor");
  m.def(
      "reduce(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, float prune_ratio, float dc, "
      "float dn, float alpha, *, Tensor? scores=None, float? scale=None, bool gaussian=False) "
      "-> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels)");
  m.def(
      "reduce_to(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, SymInt count, float prune_ratio, "
      "float dc, float dn, float alpha, *, Tensor? scores=None, float? scale=None, bool gaussian=False) "
      "-> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels)");
  m.def(
      "received_attention(Tensor queries, Tensor keys, *, Tensor? rows=None, SymInt? first=None, bool causal=True, "
      "float? scale=None) -> Tensor");
  m.def("nearest_denser(Tensor keys, Tensor density) -> (Tensor distances, Tensor indices)");
  m.def("farthest_points(Tensor keys, SymInt count, *, SymInt? first=None) -> Tensor");
  m.def("dpp_select(Tensor keys, Tensor relevance, SymInt count) -> Tensor");
  m.def(
      "euti_scores_packed(Tensor hidden, Tensor keys, Tensor queries, Tensor cu_seqlens, float? scale=None) -> Tensor");
  m.def(
      "dbdpc_packed(Tensor keys, Tensor cu_seqlens, float dc, float dn, *, bool gaussian=False) "
      "-> (Tensor centers, Tensor labels, Tensor cu_centers)");
  m.def(
      "reduce_packed(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, Tensor cu_seqlens, "
      "float prune_ratio, float dc, float dn, float alpha, *, Tensor? scores=None, float? scale=None, "
      "bool gaussian=False) -> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels, Tensor cu_centers)");
  m.def(
      "reduce_to_packed(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, Tensor cu_seqlens, "
      "Tensor counts, float prune_ratio, float dc, float dn, float alpha, *, Tensor? scores=None, float? scale=None, "
      "bool gaussian=False) -> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels, Tensor cu_centers)");
  m.def(
      "reduce_padded(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, Tensor cu_seqlens, "
      "SymInt capacity, float prune_ratio, float dc, float dn, float alpha, *, Tensor? scores=None, "
      "float? scale=None, bool gaussian=False) "
      "-> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels, Tensor counts)");
}

namespace pact {
namespace {

struct Named {
  const char* name;
  const Tensor& tensor;
};

// What the checks let through and still came here: the first tensor that is not where an operator could be.
[[noreturn]] void fail_backend(Operator op, std::initializer_list<Named> tensors) {
  for (const auto& [name, t] : tensors) {
    if (layout_of(t) != "strided" || !(t.is_cpu() || t.is_cuda()))
      Argument{op, name}.fail("must be a strided tensor on the CPU or a CUDA device, got ", layout_of(t), " on ",
                              device_of(t));
  }
  fail(op, "the operators for CUDA are not loaded: this build has none, or this torch is not a CUDA build");
}

Tensor euti_scores(const Tensor& hidden, const Tensor& keys, const Tensor& queries, std::optional<double> scale) {
  check_euti_scores_inputs("euti_scores", hidden, keys, queries, scale);
  fail_backend("euti_scores", {{"hidden", hidden}, {"keys", keys}, {"queries", queries}});
}

Tensor density(const Tensor& keys, double dn, bool) {
  check_density_inputs(keys, dn);
  fail_backend("density", {{"keys", keys}});
}

std::tuple<Tensor, Tensor> dbdpc(const Tensor& keys, double dc, double dn, bool) {
  check_dbdpc_inputs("dbdpc", keys, dc, dn);
  fail_backend("dbdpc", {{"keys", keys}});
}

std::tuple<Tensor, Tensor> assign(const Tensor& keys, const Tensor& centers, double max_distance) {
  check_assign_inputs(keys, centers, max_distance);
  fail_backend("assign", {{"keys", keys}, {"centers", centers}});
}

std::tuple<Tensor, Tensor> segment_mean(const Tensor& x, const Tensor& labels, int64_t num_segments) {
  check_segment_mean_inputs(x, labels, num_segments);
  fail_backend("segment_mean", {{"x", x}, {"labels", labels}});
}

Tensor max_distance(const Tensor& keys) {
  check_max_distance_inputs(keys);
  fail_backend("max_distance", {{"keys", keys}});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                                  const Tensor& cluster_keys, double prune_ratio, double dc, double dn,
                                                  double alpha, const std::optional<Tensor>& scores,
                                                  std::optional<double> scale, bool gaussian) {
  check_reduce_inputs("reduce", hidden, keys, queries, cluster_keys, scores,
                      {prune_ratio, dc, dn, alpha, scale, gaussian});
  fail_backend("reduce", {{"hidden", hidden},
                          {"keys", keys},
                          {"queries", queries},
                          {"cluster_keys", cluster_keys},
                          {"scores", scores.value_or(hidden)}});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_to(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                                     const Tensor& cluster_keys, int64_t count, double prune_ratio,
                                                     double dc, double dn, double alpha,
                                                     const std::optional<Tensor>& scores, std::optional<double> scale,
                                                     bool gaussian) {
  check_reduce_to_inputs(hidden, keys, queries, cluster_keys, count, scores,
                         {prune_ratio, dc, dn, alpha, scale, gaussian});
  fail_backend("reduce_to", {{"hidden", hidden},
                             {"keys", keys},
                             {"queries", queries},
                             {"cluster_keys", cluster_keys},
                             {"scores", scores.value_or(hidden)}});
}

Tensor received_attention(const Tensor& queries, const Tensor& keys, const std::optional<Tensor>& rows,
                          std::optional<int64_t> first, bool causal, std::optional<double> scale) {
  check_received_attention_inputs(queries, keys, rows, first, causal, scale);
  fail_backend("received_attention", {{"queries", queries}, {"keys", keys}, {"rows", rows.value_or(queries)}});
}

std::tuple<Tensor, Tensor> nearest_denser(const Tensor& keys, const Tensor& density) {
  check_nearest_denser_inputs(keys, density);
  fail_backend("nearest_denser", {{"keys", keys}, {"density", density}});
}

Tensor farthest_points(const Tensor& keys, int64_t count, std::optional<int64_t> first) {
  check_farthest_points_inputs(keys, count, first);
  fail_backend("farthest_points", {{"keys", keys}});
}

Tensor dpp_select(const Tensor& keys, const Tensor& relevance, int64_t count) {
  check_dpp_select_inputs(keys, relevance, count);
  fail_backend("dpp_select", {{"keys", keys}, {"relevance", relevance}});
}

Tensor euti_scores_packed(const Tensor& hidden, const Tensor& keys, const Tensor& queries, const Tensor& cu_seqlens,
                          std::optional<double> scale) {
  check_euti_scores_packed_inputs(hidden, keys, queries, cu_seqlens, scale);
  fail_backend("euti_scores_packed",
               {{"hidden", hidden}, {"keys", keys}, {"queries", queries}, {"cu_seqlens", cu_seqlens}});
}

std::tuple<Tensor, Tensor, Tensor> dbdpc_packed(const Tensor& keys, const Tensor& cu_seqlens, double dc, double dn,
                                                bool) {
  check_dbdpc_packed_inputs(keys, cu_seqlens, dc, dn);
  fail_backend("dbdpc_packed", {{"keys", keys}, {"cu_seqlens", cu_seqlens}});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_packed(const Tensor& hidden, const Tensor& keys,
                                                                 const Tensor& queries, const Tensor& cluster_keys,
                                                                 const Tensor& cu_seqlens, double prune_ratio,
                                                                 double dc, double dn, double alpha,
                                                                 const std::optional<Tensor>& scores,
                                                                 std::optional<double> scale, bool gaussian) {
  check_reduce_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, scores,
                             {prune_ratio, dc, dn, alpha, scale, gaussian});
  fail_backend("reduce_packed", {{"hidden", hidden},
                                 {"keys", keys},
                                 {"queries", queries},
                                 {"cluster_keys", cluster_keys},
                                 {"cu_seqlens", cu_seqlens},
                                 {"scores", scores.value_or(hidden)}});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_to_packed(const Tensor& hidden, const Tensor& keys,
                                                                    const Tensor& queries, const Tensor& cluster_keys,
                                                                    const Tensor& cu_seqlens, const Tensor& counts,
                                                                    double prune_ratio, double dc, double dn,
                                                                    double alpha, const std::optional<Tensor>& scores,
                                                                    std::optional<double> scale, bool gaussian) {
  check_reduce_to_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, counts, scores,
                                {prune_ratio, dc, dn, alpha, scale, gaussian});
  fail_backend("reduce_to_packed", {{"hidden", hidden},
                                    {"keys", keys},
                                    {"queries", queries},
                                    {"cluster_keys", cluster_keys},
                                    {"cu_seqlens", cu_seqlens},
                                    {"counts", counts},
                                    {"scores", scores.value_or(hidden)}});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_padded(const Tensor& hidden, const Tensor& keys,
                                                                 const Tensor& queries, const Tensor& cluster_keys,
                                                                 const Tensor& cu_seqlens, int64_t capacity,
                                                                 double prune_ratio, double dc, double dn, double alpha,
                                                                 const std::optional<Tensor>& scores,
                                                                 std::optional<double> scale, bool gaussian) {
  check_reduce_padded_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, capacity, scores,
                             {prune_ratio, dc, dn, alpha, scale, gaussian});
  fail_backend("reduce_padded", {{"hidden", hidden},
                                 {"keys", keys},
                                 {"queries", queries},
                                 {"cluster_keys", cluster_keys},
                                 {"cu_seqlens", cu_seqlens},
                                 {"scores", scores.value_or(hidden)}});
}

}  // namespace
}  // namespace pact

// Another device or layout, CUDA without its library, or None for every tensor.
STABLE_TORCH_LIBRARY_IMPL(pact, CompositeExplicitAutograd, m) {
  m.impl("euti_scores", PACT_BOX("euti_scores", &pact::euti_scores));
  m.impl("density", PACT_BOX("density", &pact::density));
  m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc));
  m.impl("assign", PACT_BOX("assign", &pact::assign));
  m.impl("segment_mean", PACT_BOX("segment_mean", &pact::segment_mean));
  m.impl("max_distance", PACT_BOX("max_distance", &pact::max_distance));
  m.impl("reduce", PACT_BOX("reduce", &pact::reduce));
  m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to));
  m.impl("received_attention", PACT_BOX("received_attention", &pact::received_attention));
  m.impl("nearest_denser", PACT_BOX("nearest_denser", &pact::nearest_denser));
  m.impl("farthest_points", PACT_BOX("farthest_points", &pact::farthest_points));
  m.impl("dpp_select", PACT_BOX("dpp_select", &pact::dpp_select));
  m.impl("euti_scores_packed", PACT_BOX("euti_scores_packed", &pact::euti_scores_packed));
  m.impl("dbdpc_packed", PACT_BOX("dbdpc_packed", &pact::dbdpc_packed));
  m.impl("reduce_packed", PACT_BOX("reduce_packed", &pact::reduce_packed));
  m.impl("reduce_to_packed", PACT_BOX("reduce_to_packed", &pact::reduce_to_packed));
  m.impl("reduce_padded", PACT_BOX("reduce_padded", &pact::reduce_padded));
}
