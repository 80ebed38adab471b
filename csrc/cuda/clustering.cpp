#include "clustering.h"

#include "budget.h"

namespace pact {

Clustering::Clustering(Workspace& workspace, int n)
    : n_(n),
      words_(adjacency_words(n)),
      status_(workspace.reserve<int>(Readback::kWords)),
      centers_(workspace.reserve<int>(n)),
      position_(workspace.reserve<int>(n)),
      is_center_(workspace.reserve<uint32_t>(words_)),
      density_(workspace.reserve<unsigned long long>(n)),
      scratch_(workspace.reserve_bytes(std::max(select_workspace_bytes(n), budget_workspace_bytes(n)))) {}

void Clustering::select(const Launch& launch, const Workspace& w, const KeyRows& keys, double dc, double dn,
                        bool gaussian) {
  adjacency_.emplace(launch.empty({adjacency_rows(n_), words_}, ScalarType::Int));
  uint32_t* bits = static_cast<uint32_t*>(adjacency_->mutable_data_ptr());

  DensityParams density{};
  density.keys = keys;
  density.n = n_;
  density.exponent = density_exponent(dn, gaussian);
  density.gaussian = gaussian;
  density.density = w[density_];
  density.cutoff = float_at_most(dc);
  density.adjacency = bits;
  density.words = words_;
  density.stream = launch.stream();
  launch.check(run_density(density));

  SelectParams select{};
  select.density = w[density_];
  select.adjacency = bits;
  select.words = words_;
  select.n = n_;
  select.count = w[status_] + kCount;
  select.centers = w[centers_];
  select.position = w[position_];
  select.is_center = w[is_center_];
  select.workspace = w[scratch_];
  select.stream = launch.stream();
  launch.check(run_select(select));
}

void Clustering::label(const Launch& launch, const Workspace& w, const KeyRows& keys, const int* scatter,
                       int64_t* labels) {
  LabelParams params{};
  params.keys = keys;
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

void Clustering::keep(const Launch& launch, const Workspace& w, const KeyRows& keys, const int64_t* labels,
                      int wanted) {
  BudgetParams params{};
  params.keys = keys;
  params.density = w[density_];
  params.label = labels;
  params.n = n_;
  params.wanted = wanted;
  params.count = w[status_] + kCount;
  params.centers = w[centers_];
  params.position = w[position_];
  params.is_center = w[is_center_];
  params.words = words_;
  params.workspace = w[scratch_];
  params.stream = launch.stream();
  launch.check(run_budget(params));
}

}  // namespace pact
