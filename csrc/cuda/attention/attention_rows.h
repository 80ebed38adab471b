// Which queries count in received attention, and what each of them sees. Plain numbers, for host and device code.
#pragma once

#include <cstdint>

namespace pact {

struct AttentionRows {
  const int64_t* index;  // [count] device: the chosen queries, any numbers; or null for all
  int count;
  int queries;    // there are, of which an index outside chooses none
  int64_t first;  // place of query 0 among the keys
  bool causal;
};

}  // namespace pact
