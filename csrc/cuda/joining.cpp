#include "joining.h"

#include "assign.h"

namespace pact {

void join(const Launch& launch, const DeviceRows& keys, const TokenList& tokens, const TokenList& centers, float limit,
          int64_t* labels) {
  Workspace workspace;
  const auto norms = workspace.reserve<double>(tokens.capacity);
  const auto center_norms = workspace.reserve<double>(centers.capacity);
  const auto nearest = workspace.reserve<NearestKey>(tokens.capacity);
  workspace.allocate(launch);
  const GramKeys token_rows(launch, keys, tokens.token, tokens.capacity, workspace[norms]);
  const GramKeys center_rows(launch, keys, centers.token, centers.capacity, workspace[center_norms]);

  NearestParams params{};
  params.tokens = token_rows.rows();
  params.token_inv_norm = workspace[norms];
  params.token_index = tokens.token;
  params.n = tokens.capacity;
  params.token_count = tokens.count;
  params.centers = center_rows.rows();
  params.center_inv_norm = workspace[center_norms];
  params.center_token = centers.token;
  params.capacity = centers.capacity;
  params.count = centers.count;
  params.nearest = workspace[nearest];
  params.stream = launch.stream();
  launch.check(run_nearest(params));
  launch.check(run_nearest_to_labels(
      {workspace[nearest], tokens.capacity, tokens.count, limit, tokens.token, labels, nullptr, launch.stream()}));
}

}  // namespace pact
