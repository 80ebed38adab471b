#include "packed.h"

#include <numeric>

#include "../merging/sequences.h"
#include "merging.h"

namespace pact {
namespace {

std::vector<int> bounds_of(const std::vector<int>& counts) {
  std::vector<int> bounds(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), bounds.begin() + 1);
  return bounds;
}

}  // namespace

PackedCenters::PackedCenters(const Launch& launch, const Sequences& sequences, const std::vector<int>& counts)
    : launch_(launch),
      sequences_(sequences),
      centers_(bounds_of(counts)),
      cu_rows_(workspace_.reserve<int>(sequences.count() + 1)),
      cu_centers_(workspace_.reserve<int>(sequences.count() + 1)) {
  workspace_.allocate(launch);
  launch.check(run_store(sequences.bounds().data(), sequences.count() + 1, workspace_[cu_rows_], launch.stream()));
  launch.check(run_store(centers_.bounds().data(), sequences.count() + 1, workspace_[cu_centers_], launch.stream()));
}

Tensor PackedCenters::cu_centers() const {
  Tensor cu_centers = launch_.empty_on_host({sequences_.count() + 1}, ScalarType::Int);
  std::copy(centers_.bounds().begin(), centers_.bounds().end(), cu_centers.mutable_data_ptr<int32_t>());
  return cu_centers;
}

Tensor PackedCenters::number_through(const int* center_token, int64_t* labels, const int* counts) const {
  Tensor centers = launch_.empty({centers_.rows()}, ScalarType::Long);
  if (counts) launch_.fill_bytes(centers.mutable_data_ptr(), 0xff, centers_.rows() * sizeof(int64_t));
  launch_.check(
      run_number_through({sequences_.count(), sequences_.rows(), workspace_[cu_rows_], workspace_[cu_centers_],
                          center_token, counts, labels, centers.mutable_data_ptr<int64_t>(), launch_.stream()}));
  return centers;
}

std::tuple<Tensor, Tensor> PackedCenters::merge(const TensorRows& hidden, const int64_t* labels) const {
  const int most = centers_.most([&](int b) { return centers_.length(b); });
  return pact::merge(launch_, hidden, labels, centers_.rows(),
                     {sequences_.count(), workspace_[cu_rows_], workspace_[cu_centers_], most});
}

PackedReduction merge_packed(const ClusterStages& clusters, const TensorRows& hidden, const std::vector<int>& counts) {
  const PackedCenters places(clusters.launch(), clusters.sequences(), counts);
  const Tensor centers = places.number_through(clusters.center_token(0), clusters.labels_of(0));
  auto [merged, sizes] = places.merge(hidden, clusters.labels_of(0));
  return {merged, sizes, centers, clusters.labels(), places.cu_centers()};
}

PackedReduction nothing_reduced(const Launch& launch, const TensorRows& hidden, const Sequences& sequences) {
  const auto none = [&] { return launch.empty({0}, ScalarType::Long); };
  const Tensor merged = launch.empty({0, hidden.rows.width}, hidden.owner.scalar_type());
  return {merged, none(), none(), none(),
          PackedCenters(launch, sequences, std::vector<int>(sequences.count())).cu_centers()};
}

}  // namespace pact
