// PACT with a budget on one stream: the shapes are known beforehand, nothing is read back, a graph can hold it.
//
// After the clustering as it is in `reduce`: sizes of the clusters, one number per token that orders both cases, ranks,
// compaction (budget.h); labels anew from the adjacency bits; the few tokens that have no center within the cutoff any
// more join the nearest, whatever the distance; then the dropped ones, as in `reduce`. What is NaN goes through.
// A budget that is a capacity leaves the number of centers to the device, which knows it first.
#include "../clustering/budget.h"
#include "joining.h"
#include "merging.h"
#include "packed.h"
#include "reduction.h"

namespace pact {
namespace {

// Of each sequence, how many tokens are wanted, and how many survive the split for that.
struct Budgets {
  Budgets(const Sequences& sequences, const std::vector<int>& counts, double prune_ratio, bool capacities = false)
      : at_most(capacities) {
    for (int b = 0; b < sequences.count(); ++b) {
      const int n = sequences.length(b), by_ratio = n ? int(kept_count(n, prune_ratio)) : 0;
      wanted.push_back(std::min(n, counts[b]));
      kept.push_back(at_most ? by_ratio : std::max(by_ratio, wanted[b]));
    }
  }
  std::vector<int> wanted, kept;
  bool at_most;  // else exactly
};

class Stages {
 public:
  Stages(const Launch& launch, const ReductionRows& rows, const Sequences& sequences, const Budgets& budgets,
         Heads heads, const Config& config)
      : launch_(launch),
        sequences_(sequences),
        budgets_(budgets),
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
    const int n = sequences_.length(b), m = split_.kept_count(b), begin = sequences_.begin(b);
    const int wanted = budgets_.wanted[b];
    const Workspace& w = clusters_.workspace;
    const cudaStream_t stream = launch_.stream();
    int* center_token = clusters_.center_token(b);
    int64_t* labels = clusters_.labels_of(b);
    const Split::Tokens tokens = split_.split(launch_, w, b, nullptr);
    if (m < n) launch_.fill_bytes(labels, 0xff, n * sizeof(int64_t));  // -1

    const TokenList center_list{center_token, budgets_.at_most ? clusters_.status() + b : nullptr, wanted};
    if (m == wanted && !budgets_.at_most) {  // every kept token is a center
      launch_.check(run_singletons({tokens.kept, m, center_token, centers, labels, stream}));
    } else {
      const bool fits = m <= wanted;  // however many centers
      clusters_.select(b, tokens.kept, m, config_);
      if (!fits) {
        clusters_.label(nullptr, w[first_labels_]);
        clusters_.keep(w[first_labels_], wanted, budgets_.at_most);
      }
      clusters_.label(tokens.kept, labels);
      clusters_.release();
      clusters_.name_centers(b, tokens.kept, std::min(m, wanted), center_token, centers);
      if (!fits) {
        launch_.check(run_unlabelled({labels, tokens.kept, m, w[unlabelled_count_], w[unlabelled_], stream}));
        join(launch_, clusters_.keys(), begin, {w[unlabelled_], w[unlabelled_count_], m}, center_list, INFINITY,
             labels);
      }
    }
    if (m < n && limit_ > 0)
      join(launch_, clusters_.keys(), begin, {tokens.dropped, nullptr, n - m}, center_list, limit_, labels);
  }

 private:
  static int largest(const std::vector<int>& counts) { return *std::max_element(counts.begin(), counts.end()); }

  const Launch& launch_;
  const Sequences& sequences_;
  const Budgets& budgets_;
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

// Of each sequence `capacity` rows: its merged tokens, and behind them rows that stand for no token.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> reduce_padded_cuda(const Tensor& hidden, const Tensor& keys,
                                                                      const Tensor& queries, const Tensor& cluster_keys,
                                                                      const Tensor& cu_seqlens, int64_t capacity,
                                                                      double prune_ratio, double dc, double dn,
                                                                      double alpha, const std::optional<Tensor>& scores,
                                                                      std::optional<double> scale, bool gaussian) {
  constexpr Operator op = kReducePadded;
  const Config config{prune_ratio, dc, dn, alpha, scale, gaussian};
  const Heads heads =
      check_reduce_padded_inputs(hidden, keys, queries, cluster_keys, cu_seqlens, capacity, scores, config);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  const std::vector<int> capacities(sequences.count(), int(capacity));
  const Budgets budgets(sequences, capacities, prune_ratio, true);
  const Launch launch(op, hidden);
  const ReductionRows rows(launch, hidden, keys, queries, cluster_keys, scores);
  const int64_t b = sequences.count(), d = rows.hidden.rows.width;
  Tensor counts = launch.empty({b}, ScalarType::Int);
  if (rows.hidden.n == 0) {
    Tensor merged = launch.empty({b, capacity, d}, hidden.scalar_type());
    Tensor sizes = launch.empty({b, capacity}, ScalarType::Long),
           centers = launch.empty({b, capacity}, ScalarType::Long);
    for (Tensor* zeros : {&merged, &sizes, &counts})
      launch.fill_bytes(zeros->mutable_data_ptr(), 0, size_t(zeros->numel()) * zeros->element_size());
    launch.fill_bytes(centers.mutable_data_ptr(), 0xff, size_t(centers.numel()) * sizeof(int64_t));  // -1
    return {merged, sizes, centers, launch.empty({0}, ScalarType::Long), counts};
  }
  Stages stages(launch, rows, sequences, budgets, heads, config);
  for (int i = 0; i < sequences.count(); ++i)
    if (sequences.length(i)) stages.run(i, nullptr);

  const ClusterStages& clusters = stages.clusters();
  launch.check(cudaMemcpyAsync(counts.mutable_data_ptr(), clusters.status(), size_t(b) * sizeof(int),
                               cudaMemcpyDeviceToDevice, launch.stream()));
  const PackedCenters places(launch, sequences, capacities);
  const Tensor centers = places.number_through(clusters.center_token(0), clusters.labels_of(0), clusters.status());
  auto [merged, sizes] = places.merge(rows.hidden, clusters.labels_of(0));
  return {torch::stable::view(merged, {b, capacity, d}), torch::stable::view(sizes, {b, capacity}),
          torch::stable::view(centers, {b, capacity}), clusters.labels(), counts};
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("reduce_to", PACT_BOX("reduce_to", &pact::reduce_to_cuda));
  m.impl("reduce_to_packed", PACT_BOX("reduce_to_packed", &pact::reduce_to_packed_cuda));
  m.impl("reduce_padded", PACT_BOX("reduce_padded", &pact::reduce_padded_cuda));
}
