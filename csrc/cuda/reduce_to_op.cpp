// PACT with an exact budget on one stream: the shapes are known beforehand, nothing is read back, a graph can hold it.
//
// After the clustering as it is in `reduce`: sizes of the clusters, one number per token that orders both cases, ranks,
// compaction (budget.h); labels anew from the adjacency bits; the few tokens that have no center within the cutoff any
// more join the nearest, whatever the distance; then the dropped ones, as in `reduce`. What is NaN goes through.
#include "budget.h"
#include "joining.h"
#include "merging.h"
#include "packed.h"
#include "reduction.h"

namespace pact {
namespace {

// Of each sequence, how many tokens are wanted, and how many survive the split for that.
struct Budgets {
  Budgets(const Sequences& sequences, const std::vector<int>& counts, double prune_ratio) {
    for (int b = 0; b < sequences.count(); ++b) {
      const int n = sequences.length(b);
      wanted.push_back(std::min(n, counts[b]));
      kept.push_back(n ? std::max(int(kept_count(n, prune_ratio)), wanted[b]) : 0);
    }
  }
  std::vector<int> wanted, kept;
};

class Stages {
 public:
  Stages(const Launch& launch, const ReductionRows& rows, const Sequences& sequences, const Budgets& budgets,
         Heads heads, const Config& config)
      : launch_(launch),
        sequences_(sequences),
        wanted_(budgets.wanted),
        config_(config),
        limit_(float_at_least(config.alpha * config.dc)),
        clusters_(launch, sequences, largest(budgets.kept)),
        split_(clusters_.workspace, rows, sequences, heads, config.scale, budgets.kept),
        first_labels_(clusters_.workspace.reserve<int64_t>(largest(budgets.kept))),
        unlabelled_(clusters_.workspace.reserve<int>(largest(budgets.kept))),
        unlabelled_count_(clusters_.workspace.reserve<int>(1)) {
    clusters_.start(rows.cluster_keys.rows, false);
  }

  const ClusterStages& clusters() const { return clusters_; }

  // Centers and labels of a sequence, in its own numbering; the centers as int64, too, unless null.
  void run(int b, int64_t* centers) {
    const int n = sequences_.length(b), m = split_.kept_count(b), begin = sequences_.begin(b), wanted = wanted_[b];
    const Workspace& w = clusters_.workspace;
    const cudaStream_t stream = launch_.stream();
    int* center_token = clusters_.center_token(b);
    int64_t* labels = clusters_.labels_of(b);
    const Split::Tokens tokens = split_.split(launch_, w, b, nullptr);
    if (m < n) launch_.fill_bytes(labels, 0xff, n * sizeof(int64_t));  // -1

    const TokenList center_list{center_token, nullptr, wanted};
    if (m == wanted) {  // every kept token is a center
      launch_.check(run_singletons({tokens.kept, m, center_token, centers, labels, stream}));
    } else {
      clusters_.select(b, tokens.kept, m, config_);
      clusters_.label(nullptr, w[first_labels_]);
      clusters_.keep(w[first_labels_], wanted);
      clusters_.label(tokens.kept, labels);
      clusters_.release();
      clusters_.name_centers(b, tokens.kept, wanted, center_token, centers);
      launch_.check(run_unlabelled({labels, tokens.kept, m, w[unlabelled_count_], w[unlabelled_], stream}));
      join(launch_, clusters_.keys(), begin, {w[unlabelled_], w[unlabelled_count_], m}, center_list, INFINITY, labels);
    }
    if (m < n && limit_ > 0)
      join(launch_, clusters_.keys(), begin, {tokens.dropped, nullptr, n - m}, center_list, limit_, labels);
  }

 private:
  static int largest(const std::vector<int>& counts) { return *std::max_element(counts.begin(), counts.end()); }

  const Launch& launch_;
  const Sequences& sequences_;
  const std::vector<int>& wanted_;
  const Config& config_;
  const float limit_;
  ClusterStages clusters_;
  Split split_;
  Workspace::Slot<int64_t> first_labels_;
  Workspace::Slot<int> unlabelled_, unlabelled_count_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_to_cuda(const Tensor& hidden, const Tensor& keys,
                                                          const Tensor& queries, const Tensor& cluster_keys,
                                                          int64_t count, double prune_ratio, double dc, double dn,
                                                          double alpha, const std::optional<Tensor>& scores,
                                                          std::optional<double> scale, bool gaussian) {
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads = check_reduce_to_inputs(hidden, keys, queries, cluster_keys, count, scores, config);
  const Launch launch("reduce_to", hidden);
  const ReductionRows rows(launch, hidden, keys, queries, cluster_keys, scores);
  const Sequences sequences = Sequences::one(rows.hidden.n);
  const Budgets budgets(sequences, {int(count)}, prune_ratio);
  Stages stages(launch, rows, sequences, budgets, heads, config);
  const int wanted = budgets.wanted[0];
  Tensor centers = launch.empty({wanted}, ScalarType::Long);
  stages.run(0, centers.mutable_data_ptr<int64_t>());
  auto [merged, sizes] = merge(launch, rows.hidden, stages.clusters().labels_of(0), wanted);
  return {merged, sizes, centers, stages.clusters().labels()};
}

PackedReduction reduce_to_packed_cuda(const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                                      const Tensor& cluster_keys, const Tensor& cu_seqlens, const Tensor& counts,
                                      double prune_ratio, double dc, double dn, double alpha,
                                      const std::optional<Tensor>& scores, std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReduceToPacked;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads =
      check_reduce_to_packed_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, counts, scores, config);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  const Budgets budgets(sequences, read_counts({op, "counts"}, counts), prune_ratio);
  const Launch launch(op, hidden);
  const ReductionRows rows(launch, hidden, keys, queries, cluster_keys, scores);
  if (rows.hidden.n == 0) return nothing_reduced(launch, rows.hidden, sequences);
  Stages stages(launch, rows, sequences, budgets, heads, config);
  for (int b = 0; b < sequences.count(); ++b)
    if (sequences.length(b)) stages.run(b, nullptr);
  return merge_packed(stages.clusters(), rows.hidden, budgets.wanted);
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to_cuda));
  m.impl("reduce_to_packed", PACT_BOX("reduce_to_packed", &pact::reduce_to_packed_cuda));
}
