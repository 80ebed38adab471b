#include "clustering.h"

#include "../clustering/budget.h"

namespace pact {

Clustering::Clustering(Workspace& workspace, int most)
    : centers_(workspace.reserve<int>(most)),
      position_(workspace.reserve<int>(most)),
      is_center_(workspace.reserve<uint32_t>(adjacency_words(most))),
      density_(workspace.reserve<unsigned long long>(most)),
      scratch_(workspace.reserve_bytes(std::max(select_workspace_bytes(most), budget_workspace_bytes(most)))) {}

void Clustering::select(const Launch& launch, const Workspace& w, const KeyRows& keys, int n, const Config& config,
                        int* count) {
  keys_ = keys;
  n_ = n;
  words_ = adjacency_words(n);
  count_ = count;
  adjacency_.emplace(launch.empty({adjacency_rows(n_), words_}, ScalarType::Int));
  uint32_t* bits = static_cast<uint32_t*>(adjacency_->mutable_data_ptr());

  DensityParams density{};
  density.keys = keys;
  density.n = n_;
  density.exponent = density_exponent(config.dn, config.gaussian);
  density.gaussian = config.gaussian;
  density.density = w[density_];
  density.cutoff = float_at_most(config.dc);
  density.adjacency = bits;
  density.words = words_;
  density.stream = launch.stream();
  launch.check(run_density(density));

  SelectParams select{};
  select.density = w[density_];
  select.adjacency = bits;
  select.words = words_;
  select.n = n_;
  select.count = count_;
  select.centers = w[centers_];
  select.position = w[position_];
  select.is_center = w[is_center_];
  select.workspace = w[scratch_];
  select.stream = launch.stream();
  launch.check(run_select(select));
}

void Clustering::label(const Launch& launch, const Workspace& w, const int* scatter, int64_t* labels) const {
  LabelParams params{};
  params.keys = keys_;
  params.adjacency = static_cast<const uint32_t*>(adjacency_->const_data_ptr());
  params.is_center = w[is_center_];
  params.position = w[position_];
  params.words = words_;
  params.n = n_;
  params.scatter = scatter;
  params.labels = labels;
  params.stream = launch.stream();
  launch.check(run_label(params));
}

void Clustering::keep(const Launch& launch, const Workspace& w, const int64_t* labels, int wanted, bool at_most) const {
  BudgetParams params{};
  params.keys = keys_;
  params.density = w[density_];
  params.label = labels;
  params.n = n_;
  params.wanted = wanted;
  params.at_most = at_most;
  params.count = count_;
  params.centers = w[centers_];
  params.position = w[position_];
  params.is_center = w[is_center_];
  params.words = words_;
  params.workspace = w[scratch_];
  params.stream = launch.stream();
  launch.check(run_budget(params));
}

}  // namespace pact
