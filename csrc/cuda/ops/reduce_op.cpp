// The whole reduction on one stream: importance, split, clustering of the kept tokens, recovery of dropped ones,
// merging. How many centers there are is read back once, while the stream goes on with the labels.
#include "joining.h"
#include "merging.h"
#include "packed.h"
#include "reduction.h"

namespace pact {
namespace {

std::vector<int> kept_counts(const Sequences& sequences, double prune_ratio) {
  std::vector<int> kept(sequences.count());
  for (int b = 0; b < sequences.count(); ++b)
    kept[b] = sequences.length(b) ? int(kept_count(sequences.length(b), prune_ratio)) : 0;
  return kept;
}

class Stages {
 public:
  Stages(ClusterStages& clusters, const Split& split, const Config& config)
      : clusters_(clusters), split_(split), config_(config), limit_(float_at_least(config.alpha * config.dc)) {}

  void select(int b) {
    tokens_ = split_.split(clusters_.launch(), clusters_.workspace, b, clusters_.bad());
    clusters_.select(b, tokens_.kept, split_.kept_count(b), config_);
  }

  void label(int b) {
    const Launch& launch = clusters_.launch();
    const int kept = split_.kept_count(b), dropped = split_.dropped_count(b);
    const bool recovering = dropped > 0 && limit_ > 0;
    int64_t* labels = clusters_.labels_of(b);
    if (dropped > 0 && !recovering) launch.fill_bytes(labels, 0xff, (kept + dropped) * sizeof(int64_t));  // -1
    clusters_.label(tokens_.kept, labels);
    clusters_.release();
    if (recovering || launch.op().packed)
      clusters_.name_centers(b, tokens_.kept, kept, clusters_.center_token(b), nullptr);
    if (recovering)
      join(launch, clusters_.keys(), clusters_.sequences().begin(b), {tokens_.dropped, nullptr, dropped},
           {clusters_.center_token(b), clusters_.status() + b, kept}, limit_, labels);
  }

  // Of the sequence that came last.
  Tensor centers(int b, int count) const {
    Tensor centers = clusters_.launch().empty({count}, ScalarType::Long);
    clusters_.name_centers(b, tokens_.kept, count, nullptr, centers.mutable_data_ptr<int64_t>());
    return centers;
  }

 private:
  ClusterStages& clusters_;
  const Split& split_;
  const Config& config_;
  const float limit_;
  Split::Tokens tokens_{};
};

// How many centers each sequence has.
std::vector<int> run(ClusterStages& clusters, const ReductionRows& rows, const Split& split, Stages& stages) {
  const Launch& launch = clusters.launch();
  const Sequences& sequences = clusters.sequences();
  const int n = sequences.rows();
  clusters.start(rows.cluster_keys.rows);
  // Scores that are given, or that would choose nothing, leave the inputs unread: they are checked all the same.
  const bool unread = sequences.most([&](int b) { return sequences.length(b) > 0 && split.dropped_count(b) == 0; });
  if (rows.scores || unread)
    for (const DeviceRows& input : {rows.hidden.rows, rows.keys.rows, rows.queries.rows})
      launch.check(run_check_rows({input, n, clusters.bad(), launch.stream()}));
  if (rows.scores) launch.check(run_check_rows({rows.scores->rows, n, clusters.bad(), launch.stream()}));

  std::vector<int> found = run_sequences(clusters, stages);
  if (found.back()) {
    std::vector<NamedRows> inputs{{"hidden", rows.hidden.rows},
                                  {"keys", rows.keys.rows},
                                  {"queries", rows.queries.rows},
                                  {"cluster_keys", rows.cluster_keys.rows}};
    if (rows.scores) inputs.push_back({"scores", rows.scores->rows});
    raise_not_finite(launch, n, inputs);
  }
  found.pop_back();
  return found;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                                       const Tensor& cluster_keys, double prune_ratio, double dc,
                                                       double dn, double alpha, const std::optional<Tensor>& scores,
                                                       std::optional<double> scale, bool gaussian) {
  constexpr Operator op = "reduce";
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_inputs(op, hidden, keys, queries, cluster_keys, scores, config);
  const Launch launch(op, hidden);
  check_not_capturing(launch);
  const ReductionRows rows(launch, hidden, keys, queries, cluster_keys, scores);
  const Sequences sequences = Sequences::one(rows.hidden.n);
  const std::vector<int> kept = kept_counts(sequences, prune_ratio);
  ClusterStages clusters(launch, sequences, kept[0]);
  const Split split(clusters.workspace, rows, sequences, heads, scale, kept);
  Stages stages(clusters, split, config);
  const int c = run(clusters, rows, split, stages)[0];
  const Tensor centers = stages.centers(0, c);
  auto [merged, sizes] = merge(launch, rows.hidden, clusters.labels_of(0), c);
  return {merged, sizes, centers, clusters.labels()};
}

PackedReduction reduce_packed_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                   const Tensor& cluster_keys, const Tensor& cu_seqlens, double prune_ratio, double dc,
                                   double dn, double alpha, const std::optional<Tensor>& scores,
                                   std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReducePacked;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, scores, config);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  const Launch launch(op, hidden);
  check_not_capturing(launch);
  const ReductionRows rows(launch, hidden, keys, queries, cluster_keys, scores);
  if (rows.hidden.n == 0) return nothing_reduced(launch, rows.hidden, sequences);
  const std::vector<int> kept = kept_counts(sequences, prune_ratio);
  ClusterStages clusters(launch, sequences, *std::max_element(kept.begin(), kept.end()));
  const Split split(clusters.workspace, rows, sequences, heads, scale, kept);
  Stages stages(clusters, split, config);
  return merge_packed(clusters, rows.hidden, run(clusters, rows, split, stages));
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("reduce", PACT_BOX("reduce", &pact::reduce_cuda));
  m.impl("reduce_packed", PACT_BOX("reduce_packed", &pact::reduce_packed_cuda));
}
