#include "packed_keys.h"

namespace pact {

InputRows::InputRows(Argument arg, const Tensor& t)
    : arg(arg), owner(contiguous_cpu(t)), rows{owner.const_data_ptr(), dtype_of(t), width_of(t)}, n(t.size(0)) {}

void InputRows::check_finite() const {
  constexpr int64_t kChunk = int64_t{1} << 20;
  const int64_t bytes = owner.element_size();
  std::atomic<bool> finite{true};
  for_each_chunk(n * rows.width, kChunk, [&](int64_t begin, int64_t end) {
    const char* data = static_cast<const char*>(rows.data) + begin * bytes;
    if (!kernels().all_finite(data, rows.dtype, end - begin)) finite = false;
  });
  if (!finite) fail_finite();
}

InputRows InputRows::range(int64_t begin, int64_t end) const {
  InputRows some = *this;
  some.rows.data = static_cast<const char*>(rows.data) + begin * rows.width * int64_t(owner.element_size());
  some.n = end - begin;
  return some;
}

PackedKeys::PackedKeys(Rows rows, const int64_t* index, int64_t n)
    : rows_(rows),
      index_(index),
      n_(n),
      data_(ceil_div(n, kernels().panel) * kernels().panel * rows.width),
      scale_(ceil_div(n, kernels().panel) * kernels().panel),
      inv_norm_(ceil_div(n, kernels().panel) * kernels().panel) {
  const Kernels& k = kernels();
  for_each_task(ceil_div(n, k.panel), [&](int64_t p, int64_t) {
    k.pack_panel(rows, index, n, p, data_.data() + p * k.panel * rows.width, scale_.data() + p * k.panel,
                 inv_norm_.data() + p * k.panel);
  });
}

}  // namespace pact
