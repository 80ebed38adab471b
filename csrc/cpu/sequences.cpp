#include "sequences.h"

#include <queue>

namespace pact {
namespace {

double pairs(int64_t n) { return double(n) * double(n); }

}  // namespace

Schedule schedule_of(const Sequences& sequences, int64_t threads) {
  // How busy the threads of one sequence are: a share that sequences side by side have to beat.
  constexpr double kBusyAlone = 0.85;

  Schedule found{{}, 0};
  double left = 0;
  for (int b = 0; b < sequences.count(); ++b) {
    if (sequences.length(b) > 0) found.order.push_back(b);
    left += pairs(sequences.length(b));
  }
  std::stable_sort(found.order.begin(), found.order.end(),
                   [&](int a, int b) { return sequences.length(a) > sequences.length(b); });
  for (; found.alone < int(found.order.size()); ++found.alone) {
    // When each thread would be done, each taking the next sequence as soon as it is free.
    std::priority_queue<double, std::vector<double>, std::greater<>> done(std::greater<>(),
                                                                          std::vector<double>(threads, 0));
    double last = 0;
    for (size_t i = found.alone; i < found.order.size(); ++i) {
      const double end = done.top() + pairs(sequences.length(found.order[i]));
      done.pop();
      done.push(end);
      last = std::max(last, end);
    }
    if (left >= kBusyAlone * double(threads) * last) break;
    left -= pairs(sequences.length(found.order[found.alone]));
  }
  return found;
}

PackedClusters number_through(const Sequences& sequences, const std::vector<Clusters>& clusters) {
  const int count = sequences.count();
  Tensor cu_centers = empty_cpu({count + 1}, ScalarType::Int);
  int32_t* first = cu_centers.mutable_data_ptr<int32_t>();
  first[0] = 0;
  for (int b = 0; b < count; ++b) first[b + 1] = first[b] + int32_t(clusters[b].centers.size());

  Tensor centers = empty_cpu({first[count]}, ScalarType::Long);
  Tensor labels = empty_cpu({sequences.rows()}, ScalarType::Long);
  int64_t *center = centers.mutable_data_ptr<int64_t>(), *label = labels.mutable_data_ptr<int64_t>();
  for (int b = 0; b < count; ++b) {
    for (const int64_t token : clusters[b].centers) *center++ = sequences.begin(b) + token;
    for (const int64_t position : clusters[b].labels) *label++ = position < 0 ? -1 : first[b] + position;
  }
  return {centers, labels, cu_centers};
}

}  // namespace pact
