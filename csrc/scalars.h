// Scalars as the backends compute with them.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace pact {

// The smallest float that is >= x: for floats f, f < x is f < float_at_least(x).
inline float float_at_least(double x) {
  const float f = float(x);
  return double{f} < x ? std::nextafterf(f, INFINITY) : f;
}

// The largest float that is <= x: for floats f, f <= x is f <= float_at_most(x).
inline float float_at_most(double x) {
  const float f = float(x);
  return double{f} > x ? std::nextafterf(f, -INFINITY) : f;
}

// The density term is exp(exponent * dist), or exp(-(exponent * dist)^2).
inline float density_exponent(double dn, bool gaussian) {
  const double inverse = std::min(1 / dn, double{FLT_MAX});
  return float(gaussian ? inverse : -inverse);
}

// How many of n tokens the importance split keeps (contract section 2).
inline int64_t kept_count(int64_t n, double prune_ratio) { return n - int64_t(std::ceil(prune_ratio * double(n - 1))); }

}  // namespace pact
