// Received attention. A task takes up to kPairs pairs of a query row and a head that share a key head over all the keys
// that they see: logits, exponentials, then weights onto the sums of the keys. These are in fixed point, exact, so that
// neither the order of the tasks nor who ran them can be seen. For one row a task is a range of keys instead, so that
// they are read once, by all threads.
#include "../boxed.h"
#include "packed_keys.h"

namespace pact {
namespace {

constexpr int64_t kChunk = 256;  // keys of one partial sum

struct Attention {
  const InputRows &queries, &keys;
  Heads heads;
  const int64_t* rows;  // the chosen queries, or null for all
  int64_t count;        // of them
  int64_t first;        // place of query 0 among the keys
  bool causal;
  float scale;
  double unit;  // of the sums of weights

  int64_t key_heads() const { return heads.queries / heads.group; }
  int64_t row(int64_t i) const { return rows ? rows[i] : i; }
  int64_t visible(int64_t row) const { return causal ? std::min(keys.n, first + row + 1) : keys.n; }
  // Of one key head, pair p being that of row p / group.
  int64_t pairs() const { return count * heads.group; }
  int64_t tasks() const { return key_heads() * ceil_div(pairs(), kPairs); }
};

// What one task works on; tasks of the same worker take it in turn.
class PairTask {
 public:
  explicit PairTask(const Attention& a)
      : a_(a),
        width_(a.pairs() <= kernels().lanes ? kernels().lanes : kPairs),
        chunks_(ceil_div(a.keys.n, kChunk)),
        queries_(a.heads.size * width_),
        query_(a.heads.size),
        weights_(a.keys.n * width_),
        partial_max_(chunks_ * width_),
        partial_sum_(chunks_ * width_) {}

  void load(int64_t task) {
    task = a_.tasks() - 1 - task;  // the last rows see the most keys: the longest first
    keys_ = {{a_.keys.rows.data, a_.keys.rows.dtype, a_.heads.size}, a_.key_heads(), task % a_.key_heads()};
    const int64_t first = task / a_.key_heads() * kPairs;
    const int64_t count = std::min(kPairs, a_.pairs() - first);
    const Rows heads{a_.queries.rows.data, a_.queries.rows.dtype, a_.heads.size};
    std::fill_n(queries_.data(), a_.heads.size * width_, 0.0f);
    std::fill_n(visible_, width_, 0);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t row = a_.row((first + p) / a_.heads.group);
      const int64_t head = keys_.head * a_.heads.group + (first + p) % a_.heads.group;
      kernels().load_row(heads, row * a_.heads.queries + head, 1, query_.data());
      for (int64_t k = 0; k < a_.heads.size; ++k) queries_[k * width_ + p] = query_[k];
      visible_[p] = int32_t(a_.visible(row));
    }
    seen_ = *std::max_element(visible_, visible_ + width_);
  }
  int64_t chunks() const { return ceil_div(seen_, kChunk); }

  // False when an element is NaN or Inf.
  bool logits(int64_t chunk) {
    return kernels().attention_logits(keys_, pairs(), begin(chunk), end(chunk), weights(chunk),
                                      partial_max_.data() + chunk * width_);
  }
  void find_largest() {
    std::fill_n(largest_, width_, -kLargestLogit);
    for (int64_t c = 0; c < chunks(); ++c)
      for (int64_t p = 0; p < width_; ++p) largest_[p] = std::max(largest_[p], partial_max_[c * width_ + p]);
  }
  void exponentials(int64_t chunk) {
    kernels().attention_exponentials(pairs(), begin(chunk), end(chunk), largest_, weights(chunk),
                                     partial_sum_.data() + chunk * width_);
  }
  void find_factors() {
    std::fill_n(factor_, width_, 0.0);
    for (int64_t c = 0; c < chunks(); ++c)
      for (int64_t p = 0; p < width_; ++p) factor_[p] += partial_sum_[c * width_ + p];
    for (int64_t p = 0; p < width_; ++p) factor_[p] = visible_[p] ? 1 / (factor_[p] * a_.unit) : 0;
  }
  void add_columns(int64_t chunk, int64_t* columns) const {
    kernels().attention_columns(pairs(), end(chunk) - begin(chunk), weights_.data() + begin(chunk) * width_, factor_,
                                columns + begin(chunk));
  }

 private:
  int64_t begin(int64_t chunk) const { return chunk * kChunk; }
  int64_t end(int64_t chunk) const { return std::min(begin(chunk) + kChunk, seen_); }
  QueryPairs pairs() const { return {width_, queries_.data(), visible_, a_.scale}; }
  float* weights(int64_t chunk) { return weights_.data() + begin(chunk) * width_; }

  const Attention& a_;
  int64_t width_, chunks_, seen_ = 0;
  HeadKeys keys_{};
  Buffer<float> queries_, query_, weights_;  // weights: logits, then exponentials
  Buffer<float> partial_max_;
  Buffer<double> partial_sum_;
  alignas(64) float largest_[kPairs];
  alignas(64) double factor_[kPairs];
  alignas(64) int32_t visible_[kPairs];
};

void round_sums(const Attention& a, const Vector<int64_t>& sums, float* received) {
  for (int64_t j = 0; j < a.keys.n; ++j)
    received[j] = float(double(sums[j]) * a.unit / double(a.count * a.heads.queries));
}

// Whole tasks, each worker with sums of its own. False when an element is NaN or Inf.
bool run_tasks(const Attention& a, float* received) {
  const int64_t n = a.keys.n, workers = worker_count(a.tasks());
  std::vector<PairTask> scratch;
  scratch.reserve(workers);
  for (int64_t w = 0; w < workers; ++w) scratch.emplace_back(a);
  Vector<int64_t> sums(workers * n, 0);
  std::atomic<bool> finite{true};
  for_each_task(a.tasks(), [&](int64_t number, int64_t worker) {
    PairTask& task = scratch[worker];
    task.load(number);
    for (int64_t c = 0; c < task.chunks() && finite; ++c)
      if (!task.logits(c)) finite = false;
    if (!finite) return;
    task.find_largest();
    for (int64_t c = 0; c < task.chunks(); ++c) task.exponentials(c);
    task.find_factors();
    for (int64_t c = 0; c < task.chunks(); ++c) task.add_columns(c, sums.data() + worker * n);
  });
  if (!finite) return false;
  for (int64_t j = 0; j < n; ++j)
    for (int64_t w = 1; w < workers; ++w) sums[j] += sums[w * n + j];
  round_sums(a, sums, received);
  return true;
}

// One query: dot products along the heads. Memory for its logits is less than a key has, and every key is read once.
// False as above.
bool run_row(const Attention& a, float* received) {
  constexpr int64_t kKeys = 64;  // of a task
  const int64_t seen = a.visible(a.row(0)), stride = ceil_div(seen, kPairs) * kPairs;
  const int64_t heads = a.heads.queries, query_stride = ceil_div(a.heads.size, kPairs) * kPairs;
  Vector<float> queries(heads * query_stride, 0);
  const Rows query_heads{a.queries.rows.data, a.queries.rows.dtype, a.heads.size};
  for (int64_t h = 0; h < heads; ++h)
    kernels().load_row(query_heads, a.row(0) * heads + h, 1, queries.data() + h * query_stride);

  Buffer<float> logits(heads * stride);
  const QueryRow row{heads, a.heads.group, queries.data(), query_stride, stride, a.scale};
  const Rows key_heads{a.keys.rows.data, a.keys.rows.dtype, a.heads.size};
  std::atomic<bool> finite{true};
  for_each_chunk(seen, kKeys, [&](int64_t begin, int64_t end) {
    if (!kernels().attention_row_logits(row, key_heads, begin, end, logits.data())) finite = false;
  });
  if (!finite) return false;

  Vector<double> factor(heads);
  for_each_task(heads, [&](int64_t h, int64_t) {
    float* own = logits.data() + h * stride;
    std::fill(own + seen, own + stride, -INFINITY);
    factor[h] = 1 / (kernels().attention_row_exponentials(own, stride) * double(heads));
  });
  for_each_chunk(seen, kChunk, [&](int64_t begin, int64_t end) {
    kernels().attention_row_columns(logits.data() + begin, stride, factor.data(), heads, end - begin, received + begin);
  });
  std::fill(received + seen, received + a.keys.n, 0.0f);
  return true;
}

}  // namespace

static Tensor received_attention_cpu(const Tensor& queries, const Tensor& keys, const std::optional<Tensor>& rows,
                                     std::optional<int64_t> first, bool causal, std::optional<double> scale) {
  constexpr const char* op = "received_attention";
  const Heads heads = check_received_attention_inputs(queries, keys, rows, first, causal, scale);
  const InputRows q({op, "queries"}, queries), k({op, "keys"}, keys);
  std::optional<Tensor> owner;
  if (rows) owner = contiguous_cpu(*rows);
  const int64_t* row = owner ? owner->const_data_ptr<int64_t>() : nullptr;
  const int64_t count = owner ? owner->size(0) : q.n;
  int64_t last = owner ? 0 : q.n - 1;
  for (int64_t i = 0; row && i < count; ++i) {
    if (row[i] < 0 || row[i] >= q.n) Argument{op, "rows"}.fail("must be in [0, ", q.n, "), got ", row[i]);
    last = std::max(last, row[i]);
  }

  // A sum of weights is at most the number of pairs.
  const double unit = std::ldexp(1.0, std::ilogb(double(count * heads.queries)) + 1 - 62);
  const float factor = float(scale.value_or(1 / std::sqrt(double(heads.size))));
  const Attention a{q, k, heads, row, count, first.value_or(k.n - q.n), causal, factor, unit};
  // NaN and Inf show in the logits; what no pair looks at is looked at here.
  if (row) q.check_finite();
  if (a.visible(last) < k.n) k.check_finite();

  Tensor out = empty_cpu({k.n}, ScalarType::Float);
  float* received = out.mutable_data_ptr<float>();
  if (!(count > 1 ? run_tasks : run_row)(a, received)) {
    q.check_finite();
    k.fail_finite();
  }
  return out;
}

}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("received_attention", PACT_BOX("received_attention", &pact::received_attention_cpu));
}
