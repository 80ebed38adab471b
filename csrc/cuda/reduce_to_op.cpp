// PACT with an exact budget on one stream: the shapes are known beforehand, nothing is read back, a graph can hold it.
//
// After the clustering as it is in `reduce`: sizes of the clusters, one number per token that orders both cases, ranks,
// compaction (budget.h); labels anew from the adjacency bits; the few tokens that have no center within the cutoff any
// more join the nearest, whatever the distance; then the dropped ones, as in `reduce`. What is NaN goes through.
#include "budget.h"
#include "clustering.h"
#include "euti.h"
#include "joining.h"
#include "segment_mean.h"

namespace pact {
static std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_to_cuda(const Tensor& hidden, const Tensor& keys,
                                                                 const Tensor& queries, const Tensor& cluster_keys,
                                                                 int64_t count, double prune_ratio, double dc,
                                                                 double dn, double alpha,
                                                                 const std::optional<Tensor>& scores,
                                                                 std::optional<double> scale, bool gaussian) {
  constexpr const char* op = "reduce_to";
  const Heads heads = check_reduce_to_inputs(hidden, keys, queries, cluster_keys, count, scores,
                                             {prune_ratio, dc, dn, alpha, scale, gaussian});
  const Launch launch(op, hidden);
  const cudaStream_t stream = launch.stream();
  const TensorRows h(launch, "hidden", hidden), u(launch, "cluster_keys", cluster_keys);
  const int n = h.n, wanted = int(std::min(int64_t{n}, count));
  const int m = std::max(int(kept_count(n, prune_ratio)), wanted), dropped_count = n - m;
  const float limit = float_at_least(alpha * dc);

  Workspace workspace;
  Clustering clustering(workspace, m);
  const auto importance = workspace.reserve<float>(n);
  const auto kept_slot = workspace.reserve<int>(m), dropped_slot = workspace.reserve<int>(dropped_count);
  const auto center_token = workspace.reserve<int>(wanted);
  const auto norms = workspace.reserve<double>(n);
  const auto first_labels = workspace.reserve<int64_t>(m);
  const auto unlabelled = workspace.reserve<int>(m), unlabelled_count = workspace.reserve<int>(1);
  const auto euti = workspace.reserve_bytes(euti_workspace_bytes(n, int(heads.size), int(heads.queries)));
  const auto split = workspace.reserve_bytes(split_workspace_bytes(n));
  workspace.allocate(launch);
  Tensor labels = launch.empty({n}, ScalarType::Long), centers = launch.empty({wanted}, ScalarType::Long);
  int64_t *label = labels.mutable_data_ptr<int64_t>(), *center = centers.mutable_data_ptr<int64_t>();

  const int* kept = nullptr;  // null: every token
  if (m < n) {
    std::optional<TensorRows> given, k, q;
    if (scores) {
      given.emplace(launch, "scores", launch.contiguous(*scores));
    } else {
      k.emplace(launch, "keys", keys);
      q.emplace(launch, "queries", queries);
      launch.check(
          run_euti(euti_params(launch, h, *k, *q, heads, scale, workspace[importance], nullptr, workspace[euti])));
    }
    SplitParams params{};
    params.scores = given ? static_cast<const float*>(given->rows.data) : workspace[importance];
    params.n = n;
    params.m = m;
    params.kept = workspace[kept_slot];
    params.dropped = workspace[dropped_slot];
    params.workspace = workspace[split];
    params.stream = stream;
    launch.check(run_split(params));
    kept = workspace[kept_slot];
    launch.fill_bytes(label, 0xff, n * sizeof(int64_t));  // -1
  }

  const bool recovering = dropped_count > 0 && limit > 0;
  std::optional<GramKeys> aligned;  // of all tokens; below, lists of them
  if (m > wanted || recovering) aligned.emplace(launch, u.rows, n, workspace[norms]);
  const TokenList center_list{workspace[center_token], nullptr, wanted};
  if (m == wanted) {  // every kept token is a center
    launch.check(run_singletons({kept, m, workspace[center_token], center, label, stream}));
  } else {
    int* status = clustering.status(workspace);
    launch.fill_bytes(status, 0, Readback::kWords * sizeof(int));
    clustering.select(launch, workspace, aligned->list(kept), dc, dn, gaussian);
    clustering.label(launch, workspace, aligned->list(kept), nullptr, workspace[first_labels]);
    clustering.keep(launch, workspace, aligned->list(kept), workspace[first_labels], wanted);
    clustering.label(launch, workspace, aligned->list(kept), kept, label);
    clustering.release();
    launch.check(run_centers_to_tokens(
        {clustering.centers(workspace), kept, status + kCount, wanted, workspace[center_token], center, stream}));
    launch.check(run_unlabelled({label, kept, m, workspace[unlabelled_count], workspace[unlabelled], stream}));
    join(launch, *aligned, {workspace[unlabelled], workspace[unlabelled_count], m}, center_list, INFINITY, label);
  }
  if (recovering) join(launch, *aligned, {workspace[dropped_slot], nullptr, dropped_count}, center_list, limit, label);

  Tensor sizes = launch.empty({wanted}, ScalarType::Long);
  Tensor merged = launch.empty({wanted, h.rows.width}, hidden.scalar_type());
  Workspace sorting;
  const auto scratch = sorting.reserve_bytes(segment_mean_workspace_bytes(n, wanted));
  sorting.allocate(launch);
  launch.check(run_segment_mean({h.rows, label, n, wanted, merged.mutable_data_ptr(), sizes.mutable_data_ptr<int64_t>(),
                                 sorting[scratch], stream}));
  return {merged, sizes, centers, labels};
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) { m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to_cuda)); }
