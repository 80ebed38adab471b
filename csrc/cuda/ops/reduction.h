// What `reduce` and `reduce_to`, of one sequence or several, share around the clustering.
#pragma once

#include "../../sequences.h"
#include "op_support.h"

namespace pact {

// The per-token tensors of a reduction.
struct ReductionRows {
  ReductionRows(const Launch& launch, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                const Tensor& cluster_keys, const std::optional<Tensor>& scores);

  TensorRows hidden, keys, queries, cluster_keys;
  std::optional<TensorRows> scores;
};

// Importance and split of one sequence after the other, in memory for any of them.
class Split {
 public:
  // kept: how many tokens of each stay.
  Split(Workspace& workspace, const ReductionRows& rows, const Sequences& sequences, Heads heads,
        std::optional<double> scale, std::vector<int> kept);

  int kept_count(int b) const { return kept_count_[b]; }
  int dropped_count(int b) const { return sequences_.length(b) - kept_count_[b]; }

  // Token numbers within sequence b, ascending; `kept` is null where all stay. What is not finite sets *bad, unless
  // that is null.
  struct Tokens {
    const int *kept, *dropped;
  };
  Tokens split(const Launch& launch, const Workspace& w, int b, int* bad) const;

 private:
  const ReductionRows& rows_;
  const Sequences& sequences_;
  Heads heads_;
  std::optional<double> scale_;
  std::vector<int> kept_count_;
  Workspace::Slot<float> importance_;
  Workspace::Slot<int> kept_, dropped_;
  Workspace::Slot<char> euti_, scratch_;
};

}  // namespace pact
