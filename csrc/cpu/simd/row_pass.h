// One row against all tokens, panel by panel: the steps of the greedy selections. Their speed is that of reading the
// panels, so everything else is done while one is at hand.
#pragma once

#include "gram.h"

namespace pact::PACT_ISA {
namespace {

struct PanelDots {
  alignas(64) float at[kPanel];
};

// Dot products of a loaded row with the tokens of a panel, with the very roundings of the Gram micro-kernel.
inline void row_dots(const float* row, const float* panel, int64_t dk, PanelDots& dots) {
  vfloat total[kPanelVectors] = {};
  for (int64_t k0 = 0; k0 < dk; k0 += kSumBlock) {
    const int64_t k1 = k0 + kSumBlock < dk ? k0 + kSumBlock : dk;
    vfloat acc[kPanelVectors] = {};
    for (int64_t k = k0; k < k1; ++k) {
      const vfloat x = splat(row[k]);
      for (int v = 0; v < kPanelVectors; ++v) acc[v] = fma(x, load<vfloat>(panel + k * kPanel + v * kLanes), acc[v]);
    }
    for (int v = 0; v < kPanelVectors; ++v) total[v] += acc[v];
  }
  for (int v = 0; v < kPanelVectors; ++v) store(dots.at + v * kLanes, total[v]);
}

// Takes the first largest of a panel's values, those of tokens [first, first + kPanel), when above the largest so far.
template <typename T>
inline void take_larger(const T* values, int64_t first, Largest& largest) {
  T of_panel = values[0];
  for (int c = 1; c < kPanel; ++c) of_panel = values[c] > of_panel ? values[c] : of_panel;
  if (!(of_panel > largest.value)) return;
  int c = 0;
  while (values[c] != of_panel) ++c;
  largest = {of_panel, first + c};
}

Largest farthest_step(const Panels& keys, int64_t begin, int64_t end, const float* row, double inv_norm,
                      float* nearest) {
  Largest largest{-__builtin_inf(), 0};
  PanelDots dots;
  const vdouble own = splat(inv_norm);
  for (int64_t p = begin; p < end; ++p) {
    row_dots(row, keys.data + p * kPanel * keys.dk, keys.dk, dots);
    float* to = nearest + p * kPanel;
    for (int c = 0; c < kPanel; c += kHalf) {
      const vdouble inv_norms = own * load<vdouble>(keys.inv_norm + p * kPanel + c);
      const vfloat_half d = distance(load<vfloat_half>(dots.at + c), inv_norms), before = load<vfloat_half>(to + c);
      store(to + c, d < before ? d : before);
    }
    take_larger(to, p * kPanel, largest);
  }
  return largest;
}

Largest dpp_step(const Panels& keys, int64_t begin, int64_t end, const DppStep& step) {
  constexpr int kParts = kPanel / kHalf;
  Largest largest{-__builtin_inf(), 0};
  PanelDots dots;
  for (int64_t p = begin; p < end; ++p) {
    row_dots(step.row, keys.data + p * kPanel * keys.dk, keys.dk, dots);
    double* entries = step.entries + p * step.steps * kPanel;
    vdouble c[kParts];
    for (int v = 0; v < kParts; ++v) {
      const vdouble weights = splat(step.weight) * load<vdouble>(step.weights + p * kPanel + v * kHalf);
      c[v] = widen(load<vfloat_half>(dots.at + v * kHalf)) * weights;
    }
    for (int64_t s = 0; s < step.t; ++s)
      for (int v = 0; v < kParts; ++v) c[v] -= splat(step.own[s]) * load<vdouble>(entries + s * kPanel + v * kHalf);
    double* gain = step.gain + p * kPanel;
    for (int v = 0; v < kParts; ++v) {
      c[v] /= splat(step.divisor);
      store(entries + step.t * kPanel + v * kHalf, c[v]);
      store(gain + v * kHalf, load<vdouble>(gain + v * kHalf) - c[v] * c[v]);
    }
    take_larger(gain, p * kPanel, largest);
  }
  return largest;
}

}  // namespace
}  // namespace pact::PACT_ISA
