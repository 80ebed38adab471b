// What the greedy selections share on the CPU.
#pragma once

#include "stages.h"

namespace pact {

inline Largest larger(Largest a, Largest b) {
  return b.value > a.value || (b.value == a.value && b.token < a.token) ? b : a;
}

// The largest distance of any pair, and the lower token of the lexicographically first pair that has it.
Largest farthest_pair(const PackedKeys& keys);

// Tokens in whole panels.
inline int64_t padded(const PackedKeys& keys) { return ceil_div(keys.n(), kernels().panel) * kernels().panel; }

// The largest that `step(begin, end)` gives over ranges of panels that cover the keys. Few keys are one range, which
// needs no second thread.
template <typename Step>
Largest largest_of_panels(const PackedKeys& keys, const Step& step) {
  constexpr int64_t kRangeElements = int64_t{1} << 16;  // 256 KB: much longer to read than a task takes to begin
  const int64_t panels = ceil_div(keys.n(), kernels().panel);
  const int64_t range = std::max<int64_t>(1, kRangeElements / (kernels().panel * keys.dk()));
  Vector<Largest> largest(ceil_div(panels, range));
  for_each_chunk(panels, range, [&](int64_t begin, int64_t end) { largest[begin / range] = step(begin, end); });
  Largest best = largest[0];
  for (const Largest& other : largest) best = larger(best, other);
  return best;
}

}  // namespace pact
