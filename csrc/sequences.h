// Sequences packed one behind the other: where each begins among the rows, and where the last ends.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace pact {

class Sequences {
 public:
  // bounds: B + 1 row numbers that ascend from 0.
  explicit Sequences(std::vector<int> bounds) : bounds_(std::move(bounds)) {}
  // All rows as one, for an operator that is not packed.
  static Sequences one(int64_t rows) { return Sequences({0, int(rows)}); }

  int count() const { return int(bounds_.size()) - 1; }
  int begin(int b) const { return bounds_[b]; }
  int end(int b) const { return bounds_[b + 1]; }
  int length(int b) const { return end(b) - begin(b); }
  int rows() const { return bounds_.back(); }
  const std::vector<int>& bounds() const { return bounds_; }

  // The largest f(b) of any sequence, 0 without any.
  template <typename F>
  auto most(const F& f) const {
    decltype(f(0)) largest = 0;
    for (int b = 0; b < count(); ++b) largest = std::max(largest, f(b));
    return largest;
  }

 private:
  std::vector<int> bounds_;
};

}  // namespace pact
