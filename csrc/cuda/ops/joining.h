// Tokens that join the nearest of some centers: what reduce and reduce_to do with those that are in no cluster yet.
#pragma once

#include "op_support.h"

namespace pact {

// Token numbers on the device, of which *count are in use, null for `capacity`.
struct TokenList {
  const int* token;
  const int* count;
  int capacity;
};

// `keys` are those of all tokens, whose numbers count from row `begin`. labels[token] = the position of the nearest
// center where that is nearer than `limit`, else -1.
void join(const Launch& launch, const GramKeys& keys, int begin, const TokenList& tokens, const TokenList& centers,
          float limit, int64_t* labels);

}  // namespace pact
