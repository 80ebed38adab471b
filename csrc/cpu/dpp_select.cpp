// Greedy MAP of a determinantal point process: a column of the kernel's Cholesky factor per token chosen, in double,
// from one pass over the packed keys.
#include "greedy.h"

namespace pact {
namespace {

constexpr double kLeastGain = 1e-6;  // of the first gain: below, the rest is rounding

// Chooses by gain while there is one; returns how many tokens that were.
int64_t choose_by_gain(const PackedKeys& keys, const float* relevance, int64_t count, int64_t* chosen) {
  const int64_t n = keys.n(), panel = kernels().panel;
  Vector<double> weights(padded(keys), 0.0), gain(padded(keys), -INFINITY), own(count);
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = relevance[i] * keys.inv_norm(i);
    gain[i] = double{relevance[i]} * relevance[i];
  }
  Buffer<double> entries(padded(keys) * (count - 1));
  Vector<float> row(keys.dk());
  const auto entry = [&](int64_t i, int64_t t) { return entries[(i / panel * (count - 1) + t) * panel + i % panel]; };

  const int64_t first = std::max_element(gain.begin(), gain.end()) - gain.begin();
  Largest best{gain[first], first};
  const double least = kLeastGain * best.value;
  for (int64_t t = 0;; ++t) {
    if (best.value <= least) return t;
    const int64_t j = chosen[t] = best.token;
    if (t + 1 == count) return count;
    gain[j] = -INFINITY;
    keys.load_row(j, row.data());
    for (int64_t s = 0; s < t; ++s) own[s] = entry(j, s);
    const DppStep step{
        .row = row.data(),
        .weight = weights[j],
        .divisor = std::sqrt(best.value),
        .own = own.data(),
        .t = t,
        .steps = count - 1,
        .weights = weights.data(),
        .entries = entries.data(),
        .gain = gain.data(),
    };
    best = largest_of_panels(
        keys, [&](int64_t begin, int64_t end) { return kernels().dpp_step(keys.panels(), begin, end, step); });
  }
}

// The tokens that are not among chosen[0, known), by relevance descending, lower index first, as chosen[known, count).
void choose_by_relevance(const float* relevance, int64_t n, int64_t known, int64_t count, int64_t* chosen) {
  Vector<bool> taken(n, false);
  for (int64_t t = 0; t < known; ++t) taken[chosen[t]] = true;
  Vector<int64_t> rest;
  for (int64_t i = 0; i < n; ++i)
    if (!taken[i]) rest.push_back(i);
  std::stable_sort(rest.begin(), rest.end(), [&](int64_t a, int64_t b) { return relevance[a] > relevance[b]; });
  std::copy_n(rest.begin(), count - known, chosen + known);
}

}  // namespace

static Tensor dpp_select_cpu(const Tensor& keys, const Tensor& relevance, int64_t count) {
  const Argument arg{"dpp_select", "keys"}, relevance_arg{"dpp_select", "relevance"};
  check_dpp_select_inputs(keys, relevance, count);
  const FiniteRows k(arg, keys), r(relevance_arg, relevance);
  const float* relevance_of = static_cast<const float*>(r.rows.data);

  Tensor out = empty_cpu({count}, ScalarType::Long);
  int64_t* chosen = out.mutable_data_ptr<int64_t>();
  const int64_t known = choose_by_gain(PackedKeys(k.rows, nullptr, k.n), relevance_of, count, chosen);
  if (known < count) choose_by_relevance(relevance_of, k.n, known, count, chosen);
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("dpp_select", PACT_BOX("dpp_select", &pact::dpp_select_cpu)); }
