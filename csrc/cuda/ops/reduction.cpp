#include "reduction.h"

namespace pact {

ReductionRows::ReductionRows(const Launch& launch, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                             const Tensor& cluster_keys, const std::optional<Tensor>& scores)
    : hidden(launch, "hidden", hidden),
      keys(launch, "keys", keys),
      queries(launch, "queries", queries),
      cluster_keys(launch, "cluster_keys", cluster_keys) {
  if (scores) this->scores.emplace(launch, "scores", launch.contiguous(*scores));
}

Split::Split(Workspace& workspace, const ReductionRows& rows, const Sequences& sequences, Heads heads,
             std::optional<double> scale, std::vector<int> kept)
    : rows_(rows), sequences_(sequences), heads_(heads), scale_(scale), kept_count_(std::move(kept)) {
  const int longest = sequences.most([&](int b) { return sequences.length(b); });
  importance_ = workspace.reserve<float>(longest);
  kept_ = workspace.reserve<int>(sequences.most([&](int b) { return kept_count(b); }));
  dropped_ = workspace.reserve<int>(sequences.most([&](int b) { return dropped_count(b); }));
  euti_ = workspace.reserve_bytes(sequences.most([&](int b) {
    return sequences.length(b) ? euti_workspace_bytes(sequences.length(b), int(heads.size), int(heads.queries)) : 0;
  }));
  scratch_ = workspace.reserve_bytes(split_workspace_bytes(longest));
}

Split::Tokens Split::split(const Launch& launch, const Workspace& w, int b, int* bad) const {
  if (dropped_count(b) == 0) return {nullptr, nullptr};
  const int begin = sequences_.begin(b), n = sequences_.length(b);
  SplitParams params{};
  if (rows_.scores) {
    params.scores = static_cast<const float*>(rows_.scores->rows.data) + begin;
  } else {
    launch.check(run_euti(euti_params(launch, rows_.hidden.range(begin, n), rows_.keys.range(begin, n),
                                      rows_.queries.range(begin, n), heads_, scale_, w[importance_], bad, w[euti_])));
    params.scores = w[importance_];
  }
  params.n = n;
  params.m = kept_count(b);
  params.kept = w[kept_];
  params.dropped = w[dropped_];
  params.bad = bad;
  params.workspace = w[scratch_];
  params.stream = launch.stream();
  launch.check(run_split(params));
  return {w[kept_], w[dropped_]};
}

}  // namespace pact
