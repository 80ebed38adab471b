// The centres among each token's neighbours. In the plain clustering a token's nearest centre is one of them, so only
// those are compared.
#pragma once

#include "stages.h"

namespace pact {

class Candidates {
 public:
  Candidates(const PackedKeys& keys, const Adjacency& adjacency, const Vector<int64_t>& centers);

  struct Work {
    int64_t pairs;    // that need a distance: the candidates of every token that has more than one
    int64_t without;  // tokens that have none
  };
  Work work() const;

  // The nearest candidate, pair by pair: labels[i] is its position among the centres, a centre's its own, and untouched
  // where there is no candidate.
  void label(bool need_distances, int64_t* labels) const;

 private:
  void find(int64_t token, Vector<int64_t>& positions) const;

  const PackedKeys& keys_;
  const Adjacency& adjacency_;
  const Vector<int64_t>& centers_;
  Vector<uint64_t> is_center_;
  Vector<int64_t> position_;  // of a centre among the centres, -1 for other tokens
};

}  // namespace pact
