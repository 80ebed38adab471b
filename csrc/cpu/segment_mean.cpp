// Means of the rows of each segment: rows sorted by label, then one sum per segment in ascending row index.
#include <utility>

#include "stages.h"

namespace pact {

std::tuple<Tensor, Tensor> segment_mean(const InputRows& x, const int64_t* labels, int64_t segments) {
  Tensor means = empty_cpu({segments, x.rows.width}, x.owner.scalar_type());
  Tensor counts = empty_cpu({segments}, ScalarType::Long);
  // A segment's count becomes where its rows begin among the members, then where they end, then a count again: there
  // may be far more segments than rows, and nothing else is as long.
  int64_t* end = counts.mutable_data_ptr<int64_t>();
  std::fill_n(end, segments, 0);
  for (int64_t i = 0; i < x.n; ++i)
    if (labels[i] >= 0) ++end[labels[i]];
  int64_t placed = 0;
  for (int64_t s = 0; s < segments; ++s) placed += std::exchange(end[s], placed);
  Vector<int64_t> members(placed);
  for (int64_t i = 0; i < x.n; ++i)
    if (labels[i] >= 0) members[end[labels[i]]++] = i;

  char* mean = static_cast<char*>(means.mutable_data_ptr());
  const int64_t row_bytes = x.rows.width * int64_t(x.owner.element_size());
  Buffer<float> sums(worker_count(segments) * x.rows.width);
  for_each_task(segments, [&](int64_t s, int64_t worker) {
    const int64_t begin = s > 0 ? end[s - 1] : 0;
    kernels().mean_of_rows(x.rows, members.data() + begin, end[s] - begin, sums.data() + worker * x.rows.width,
                           mean + s * row_bytes);
  });
  for (int64_t s = segments - 1; s > 0; --s) end[s] -= end[s - 1];
  return {means, counts};
}

static std::tuple<Tensor, Tensor> segment_mean_cpu(const Tensor& x, const Tensor& labels, int64_t num_segments) {
  const Argument arg{"segment_mean", "x"}, label_arg{"segment_mean", "labels"};
  check_segment_mean_inputs(x, labels, num_segments);
  const FiniteRows rows(arg, x);
  const Tensor owner = contiguous_cpu(labels);
  const int64_t* label = owner.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < rows.n; ++i)
    if (label[i] < -1 || label[i] >= num_segments)
      label_arg.fail("must be in [-1, ", num_segments, "), got ", label[i]);
  return segment_mean(rows, label, num_segments);
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) { m.impl("segment_mean", PACT_BOX("segment_mean", &pact::segment_mean_cpu)); }
