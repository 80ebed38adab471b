// Several sequences in one call. A sequence goes through the same code alone or in company, so that the bits are the
// same; only the threads are shared out differently.
#pragma once

#include "../sequences.h"
#include "clustering.h"

namespace pact {

// Those that have rows, the longest first; and how many of them keep all threads busy better alone, one after the
// other, than side by side with the rest.
struct Schedule {
  std::vector<int> order;
  int alone;
};
Schedule schedule_of(const Sequences& sequences, int64_t threads);

// Calls f(b) for every sequence that has rows.
template <typename F>
void for_each_sequence(const Sequences& sequences, const F& f) {
  const Schedule schedule = schedule_of(sequences, torch::stable::get_num_threads());
  for (int i = 0; i < schedule.alone; ++i) f(schedule.order[i]);
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
  for_each_sequence(sequences, [&](int b) { found[b] = cluster(b); });
  return number_through(sequences, found);
}

}  // namespace pact
