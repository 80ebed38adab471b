// Sequences packed one behind the other. One goes through the same code alone or in company, so that the bits are the
// same; only the threads are shared out differently.
#pragma once

#include "clustering.h"

namespace pact {

class Sequences {
 public:
  explicit Sequences(std::vector<int> bounds) : bounds_(std::move(bounds)) {}
  // The one sequence of an operator that is not packed.
  explicit Sequences(const Tensor& rows) : Sequences({0, int(rows.size(0))}) {}

  int64_t count() const { return int64_t(bounds_.size()) - 1; }
  int64_t begin(int64_t b) const { return bounds_[b]; }
  int64_t end(int64_t b) const { return bounds_[b + 1]; }
  int64_t length(int64_t b) const { return end(b) - begin(b); }
  int64_t rows() const { return bounds_.back(); }

  // Those that have rows, the longest first; and how many of them keep all threads busy better alone, one after the
  // other, than side by side with the rest.
  struct Schedule {
    std::vector<int64_t> order;
    int64_t alone;
  };
  Schedule schedule(int64_t threads) const;

 private:
  std::vector<int> bounds_;  // [B + 1]
};

// Calls f(b) for every sequence that has rows.
template <typename F>
void for_each_sequence(const Sequences& sequences, const F& f) {
  const Sequences::Schedule schedule = sequences.schedule(torch::stable::get_num_threads());
  for (int64_t i = 0; i < schedule.alone; ++i) f(schedule.order[i]);
  // Within a task, for_each_task is a plain loop.
  for_each_task(int64_t(schedule.order.size()) - schedule.alone,
                [&](int64_t task, int64_t) { f(schedule.order[schedule.alone + task]); });
}

struct PackedClusters {
  Tensor centers;     // int64 [c], rows of the batch
  Tensor labels;      // int64 [n], positions in `centers`, -1 for a token in none
  Tensor cu_centers;  // int32 [B + 1], where each sequence's centres begin, and where the last one's end
};

PackedClusters number_through(const Sequences& sequences, const std::vector<Clusters>& clusters);

// cluster(b) gives one sequence's.
template <typename Cluster>
PackedClusters cluster_sequences(const Sequences& sequences, const Cluster& cluster) {
  std::vector<Clusters> found(sequences.count());
  for_each_sequence(sequences, [&](int64_t b) { found[b] = cluster(b); });
  return number_through(sequences, found);
}

}  // namespace pact
