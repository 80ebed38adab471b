#include "joining.h"

#include "../nearest/assign.h"

namespace pact {

void join(const Launch& launch, const GramKeys& keys, int begin, const TokenList& tokens, const TokenList& centers,
          float limit, int64_t* labels) {
  Workspace workspace;
  const auto nearest = workspace.reserve<NearestKey>(tokens.capacity);
  workspace.allocate(launch);

  NearestParams params{};
  params.tokens = keys.list(tokens.token, begin);
  params.token_index = tokens.token;
  params.n = tokens.capacity;
  params.token_count = tokens.count;
  params.centers = keys.list(centers.token, begin);
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
