// Density, selection and labels of one set of keys after the other: what dbdpc, reduce and reduce_to share.
#pragma once

#include "../clustering/density.h"
#include "../clustering/select.h"
#include "op_support.h"

namespace pact {

class Clustering {
 public:
  // Reserves what the steps below need for `most` keys at most. With `workspace` allocated, the steps may be enqueued.
  Clustering(Workspace& workspace, int most);

  const int* centers(const Workspace& w) const { return w[centers_]; }

  // Density and adjacency, selection, of the n `keys`, on which the steps below go on. *count says how many centers
  // there are.
  void select(const Launch& launch, const Workspace& w, const KeyRows& keys, int n, const Config& config, int* count);

  // labels[scatter ? scatter[i] : i] for every key; -1 where none of the centers is within the cutoff, which is so only
  // after `keep`.
  void label(const Launch& launch, const Workspace& w, const int* scatter, int64_t* labels) const;

  // `wanted` centers from now on, exactly or at most; `labels` [n] are those of the centers found.
  void keep(const Launch& launch, const Workspace& w, const int64_t* labels, int wanted, bool at_most) const;

  // Gives the adjacency's memory back: later work on the same stream may use it.
  void release() { adjacency_.reset(); }

 private:
  KeyRows keys_{};
  int n_ = 0, words_ = 0;
  int* count_ = nullptr;
  Workspace::Slot<int> centers_, position_;
  Workspace::Slot<uint32_t> is_center_;
  Workspace::Slot<unsigned long long> density_;
  Workspace::Slot<char> scratch_;  // of the selection, then of the budget
  std::optional<Tensor> adjacency_;
};

}  // namespace pact
