// The whole reduction on one stream: importance, split, clustering of the kept tokens, recovery of dropped ones,
// merging. How many centers there are is read back once, while the stream goes on with the labels.
#include "clustering.h"
#include "euti.h"
#include "joining.h"
#include "segment_mean.h"

namespace pact {
static std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cuda(const Tensor& hidden, const Tensor& keys,
                                                              const Tensor& queries, const Tensor& cluster_keys,
                                                              double prune_ratio, double dc, double dn, double alpha,
                                                              const std::optional<Tensor>& scores,
                                                              std::optional<double> scale, bool gaussian) {
  constexpr const char* op = "reduce";
  const Heads heads = check_reduce_inputs(op, hidden, keys, queries, cluster_keys, scores,
                                          {prune_ratio, dc, dn, alpha, scale, gaussian});
  const Launch launch(op, hidden);
  check_not_capturing(launch);
  const cudaStream_t stream = launch.stream();
  const TensorRows h(launch, "hidden", hidden), k(launch, "keys", keys), q(launch, "queries", queries);
  const TensorRows u(launch, "cluster_keys", cluster_keys);
  const int n = h.n, m = int(kept_count(n, prune_ratio)), dropped_count = n - m;
  const float limit = float_at_least(alpha * dc);
  const bool recovering = dropped_count > 0 && limit > 0;

  Workspace workspace;
  Clustering clustering(workspace, m);
  const auto importance = workspace.reserve<float>(n);
  const auto kept_slot = workspace.reserve<int>(m), dropped_slot = workspace.reserve<int>(dropped_count);
  const auto center_token = workspace.reserve<int>(m);
  const auto norms = workspace.reserve<double>(n);
  const auto euti = workspace.reserve_bytes(euti_workspace_bytes(n, int(heads.size), int(heads.queries)));
  const auto split = workspace.reserve_bytes(split_workspace_bytes(n));
  workspace.allocate(launch);
  Tensor labels = launch.empty({n}, ScalarType::Long);
  int64_t* label = labels.mutable_data_ptr<int64_t>();
  int* status = clustering.status(workspace);
  int* bad = status + kBad;
  launch.fill_bytes(status, 0, Readback::kWords * sizeof(int));

  // Scores that are given, or that would choose nothing, leave the inputs unread: they are checked all the same.
  std::optional<TensorRows> given;
  if (scores) given.emplace(launch, "scores", launch.contiguous(*scores));
  if (given || m == n) {
    for (const DeviceRows& rows : {h.rows, k.rows, q.rows}) launch.check(run_check_rows({rows, n, bad, stream}));
    if (given) launch.check(run_check_rows({given->rows, n, bad, stream}));
  } else {
    launch.check(run_euti(euti_params(launch, h, k, q, heads, scale, workspace[importance], bad, workspace[euti])));
  }

  const int* kept = nullptr;  // null: every token
  const int* dropped = workspace[dropped_slot];
  if (m < n) {
    SplitParams params{};
    params.scores = given ? static_cast<const float*>(given->rows.data) : workspace[importance];
    params.n = n;
    params.m = m;
    params.kept = workspace[kept_slot];
    params.dropped = workspace[dropped_slot];
    params.bad = bad;
    params.workspace = workspace[split];
    params.stream = stream;
    launch.check(run_split(params));
    kept = workspace[kept_slot];
  }

  if (dropped_count > 0 && !recovering) launch.fill_bytes(label, 0xff, n * sizeof(int64_t));  // -1
  const GramKeys aligned(launch, u.rows, n, workspace[norms], bad);  // of all tokens; below, lists of them
  clustering.select(launch, workspace, aligned.list(kept), dc, dn, gaussian);
  Readback readback(launch, status);

  clustering.label(launch, workspace, aligned.list(kept), kept, label);
  clustering.release();
  if (recovering) {
    launch.check(run_centers_to_tokens(
        {clustering.centers(workspace), kept, status + kCount, m, workspace[center_token], nullptr, stream}));
    join(launch, aligned, {dropped, nullptr, dropped_count}, {workspace[center_token], status + kCount, m}, limit,
         label);
  }

  const int* found = readback.wait();
  if (found[kBad]) {
    if (given)
      raise_not_finite(launch, n,
                       {{"hidden", h.rows},
                        {"keys", k.rows},
                        {"queries", q.rows},
                        {"cluster_keys", u.rows},
                        {"scores", given->rows}});
    raise_not_finite(launch, n, {{"hidden", h.rows}, {"keys", k.rows}, {"queries", q.rows}, {"cluster_keys", u.rows}});
  }
  const int c = found[kCount];
  Tensor centers = launch.empty({c}, ScalarType::Long), sizes = launch.empty({c}, ScalarType::Long);
  Tensor merged = launch.empty({c, h.rows.width}, hidden.scalar_type());
  launch.check(run_centers_to_tokens(
      {clustering.centers(workspace), kept, status + kCount, c, nullptr, centers.mutable_data_ptr<int64_t>(), stream}));
  Workspace sorting;
  const auto scratch = sorting.reserve_bytes(segment_mean_workspace_bytes(n, c));
  sorting.allocate(launch);
  launch.check(run_segment_mean(
      {h.rows, label, n, c, merged.mutable_data_ptr(), sizes.mutable_data_ptr<int64_t>(), sorting[scratch], stream}));
  return {merged, sizes, centers, labels};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("reduce", PACT_BOX("reduce", &pact::reduce_cuda)); }
