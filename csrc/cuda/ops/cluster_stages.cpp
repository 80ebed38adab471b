#include "cluster_stages.h"

namespace pact {

ClusterStages::ClusterStages(const Launch& launch, const Sequences& sequences, int most)
    : launch_(launch),
      sequences_(sequences),
      clustering_(workspace, most),
      status_(workspace.reserve<int>(sequences.count() + 1)),
      center_token_(workspace.reserve<int>(sequences.rows())),
      norms_(workspace.reserve<double>(sequences.rows())) {}

void ClusterStages::start(const DeviceRows& keys, bool check) {
  workspace.allocate(launch_);
  labels_.emplace(launch_.empty({sequences_.rows()}, ScalarType::Long));
  launch_.fill_bytes(status(), 0, (sequences_.count() + 1) * sizeof(int));
  keys_.emplace(launch_, keys, sequences_.rows(), workspace[norms_], check ? bad() : nullptr);
}

void ClusterStages::select(int b, const int* kept, int m, const Config& config) {
  clustering_.select(launch_, workspace, keys_->list(kept, sequences_.begin(b)), m, config, status() + b);
}

void ClusterStages::name_centers(int b, const int* kept, int most, int* tokens, int64_t* centers) const {
  launch_.check(run_centers_to_tokens(
      {clustering_.centers(workspace), kept, status() + b, most, tokens, centers, launch_.stream()}));
}

}  // namespace pact
