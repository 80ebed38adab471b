// Density, selection and labels of one set of keys: what dbdpc and reduce share.
#pragma once

#include "density.h"
#include "op_support.h"
#include "select.h"

namespace pact {

// What is read back: how many centers there are, and whether an input held a NaN or Inf.
enum StatusWord { kCount, kBad };

class Clustering {
 public:
  // Reserves what the steps below need for n keys. With `workspace` allocated, the steps may be enqueued.
  Clustering(Workspace& workspace, int n);

  int* status(const Workspace& w) const { return w[status_]; }
  const int* centers(const Workspace& w) const { return w[centers_]; }

  // Density and adjacency, selection, of `keys`. *status says how many centers there are.
  void select(const Launch& launch, const Workspace& w, const KeyRows& keys, double dc, double dn, bool gaussian);

  // labels[scatter ? scatter[i] : i] for every key; -1 where none of the centers is within the cutoff, which is so only
  // after `keep`.
  void label(const Launch& launch, const Workspace& w, const KeyRows& keys, const int* scatter, int64_t* labels);

  // Exactly `wanted` centers from now on; `labels` [n] are those of the centers found.
  void keep(const Launch& launch, const Workspace& w, const KeyRows& keys, const int64_t* labels, int wanted);

  // Gives the adjacency's memory back: later work on the same stream may use it.
  void release() { adjacency_.reset(); }

 private:
  int n_, words_;
  Workspace::Slot<int> status_, centers_, position_;
  Workspace::Slot<uint32_t> is_center_;
  Workspace::Slot<unsigned long long> density_;
  Workspace::Slot<char> scratch_;  // of the selection, then of the budget
  std::optional<Tensor> adjacency_;
};

}  // namespace pact
