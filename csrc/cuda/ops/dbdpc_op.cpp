#include "cluster_stages.h"
#include "packed.h"

namespace pact {
namespace {

class Stages {
 public:
  Stages(ClusterStages& clusters, const Config& config) : clusters_(clusters), config_(config) {}

  void select(int b) { clusters_.select(b, nullptr, length(b), config_); }
  void label(int b) {
    clusters_.label(nullptr, clusters_.labels_of(b));
    clusters_.release();
    if (clusters_.launch().op().packed)
      clusters_.name_centers(b, nullptr, length(b), clusters_.center_token(b), nullptr);
  }

 private:
  int length(int b) const { return clusters_.sequences().length(b); }

  ClusterStages& clusters_;
  const Config& config_;
};

// How many centers each sequence has.
std::vector<int> run(ClusterStages& clusters, const TensorRows& keys, const Config& config) {
  clusters.start(keys.rows);
  Stages stages(clusters, config);
  std::vector<int> found = run_sequences(clusters, stages);
  if (found.back()) Argument{clusters.launch().op(), "keys"}.fail("must be finite, got NaN or Inf among its values");
  found.pop_back();
  return found;
}

int longest(const Sequences& sequences) {
  return sequences.most([&](int b) { return sequences.length(b); });
}

std::tuple<Tensor, Tensor> dbdpc_cuda(const Tensor& keys, double dc, double dn, bool gaussian) {
  check_dbdpc_inputs("dbdpc", keys, dc, dn);
  const Launch launch("dbdpc", keys);
  check_not_capturing(launch);
  const TensorRows k(launch, "keys", keys);
  const Sequences sequences = Sequences::one(k.n);
  ClusterStages clusters(launch, sequences, k.n);
  const int c = run(clusters, k, {0, dc, dn, 0, {}, gaussian})[0];
  Tensor centers = launch.empty({c}, ScalarType::Long);
  clusters.name_centers(0, nullptr, c, nullptr, centers.mutable_data_ptr<int64_t>());
  return {centers, clusters.labels()};
}

std::tuple<Tensor, Tensor, Tensor> dbdpc_packed_cuda(const Tensor& keys, const Tensor& cu_seqlens, double dc, double dn,
                                                     bool gaussian) {
  check_dbdpc_packed_inputs(keys, cu_seqlens, dc, dn);
  const Sequences sequences = read_sequences({kDbdpcPacked, "cu_seqlens"}, cu_seqlens, "keys", keys);
  const Launch launch(kDbdpcPacked, keys);
  check_not_capturing(launch);
  const TensorRows k(launch, "keys", keys);
  if (k.n == 0) {
    const auto [merged, sizes, centers, labels, cu_centers] = nothing_reduced(launch, k, sequences);
    return {centers, labels, cu_centers};
  }
  ClusterStages clusters(launch, sequences, longest(sequences));
  const PackedCenters centers(launch, sequences, run(clusters, k, {0, dc, dn, 0, {}, gaussian}));
  return {centers.number_through(clusters.center_token(0), clusters.labels_of(0)), clusters.labels(),
          centers.cu_centers()};
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CUDA, m) {
  m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cuda));
  m.impl("dbdpc_packed", PACT_BOX("dbdpc_packed", &pact::dbdpc_packed_cuda));
}
