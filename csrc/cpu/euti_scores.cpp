// EUTI: one pass over the queries for their mean, one over keys and hidden states for logits and norms, then the
// softmax over tokens. In double throughout: reading memory costs more, and finite inputs cannot overflow before the
// last rounding. So a sum that is not finite means an input that is not, and no pass is spent on looking for one.
#include "sequences.h"

namespace pact {
namespace {

constexpr int64_t kChunk = 256;  // rows of one partial result; fixed, so that sums do not depend on the threads

// Column means of the rows.
Vector<double> column_means(const InputRows& x) {
  const int64_t chunks = ceil_div(x.n, kChunk), width = x.rows.width;
  Vector<double> partial(chunks * width, 0), mean(width, 0);
  for_each_chunk(x.n, kChunk, [&](int64_t begin, int64_t end) {
    kernels().add_rows(x.rows, begin, end, partial.data() + begin / kChunk * width);
  });
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t k = 0; k < width; ++k) mean[k] += partial[c * width + k];
  for (double& m : mean) {
    if (!std::isfinite(m)) x.fail_finite();
    m /= double(x.n);
  }
  return mean;
}

}  // namespace

void importance(const InputRows& hidden, const InputRows& keys, const InputRows& queries, Heads heads,
                std::optional<double> scale, float* scores) {
  const int64_t n = hidden.n, chunks = ceil_div(n, kChunk);
  const double factor = scale.value_or(1 / std::sqrt(double(heads.size)));
  const Vector<double> query_mean = column_means(queries);
  Buffer<double> weight(n * heads.queries), norm(n);  // weight: logits, then exponentials

  std::atomic<bool> keys_finite{true}, hidden_finite{true};
  Vector<double> partial(chunks * heads.queries, -INFINITY);
  for_each_chunk(n, kChunk, [&](int64_t begin, int64_t end) {
    double* largest = partial.data() + begin / kChunk * heads.queries;
    for (int64_t i = begin; i < end; ++i) {
      double* logit = weight.data() + i * heads.queries;
      kernels().head_logits(keys.rows, i, query_mean.data(), heads.queries, heads.group, heads.size, logit);
      for (int64_t h = 0; h < heads.queries; ++h) {
        if (!std::isfinite(logit[h])) keys_finite = false;
        logit[h] *= factor;
        largest[h] = std::max(largest[h], logit[h]);
      }
      norm[i] = kernels().row_norm(hidden.rows, i);
      if (!std::isfinite(norm[i])) hidden_finite = false;
    }
  });
  if (!hidden_finite) hidden.fail_finite();
  if (!keys_finite) keys.fail_finite();
  Vector<double> largest(heads.queries, -INFINITY), total(heads.queries, 0);
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t h = 0; h < heads.queries; ++h) largest[h] = std::max(largest[h], partial[c * heads.queries + h]);

  std::fill(partial.begin(), partial.end(), 0);
  for_each_chunk(n, kChunk, [&](int64_t begin, int64_t end) {
    double* sum = partial.data() + begin / kChunk * heads.queries;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t h = 0; h < heads.queries; ++h) {
        double& w = weight[i * heads.queries + h];
        w = std::exp(w - largest[h]);
        sum[h] += w;
      }
    }
  });
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t h = 0; h < heads.queries; ++h) total[h] += partial[c * heads.queries + h];

  std::atomic<bool> scores_finite{true};
  for_each_chunk(n, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double mean = 0;
      for (int64_t h = 0; h < heads.queries; ++h) mean += weight[i * heads.queries + h] / total[h];
      scores[i] = float(mean / double(heads.queries) * norm[i]);
      if (!std::isfinite(scores[i])) scores_finite = false;
    }
  });
  if (!scores_finite) fail_scores(hidden.arg.op);
}

namespace {

Tensor scores_of(Operator op, const Tensor& hidden, const Tensor& keys, const Tensor& queries,
                 const Sequences& sequences, Heads heads, std::optional<double> scale) {
  const InputRows h({op, "hidden"}, hidden), k({op, "keys"}, keys), q({op, "queries"}, queries);
  Tensor scores = empty_cpu({h.n}, ScalarType::Float);
  float* score = scores.mutable_data_ptr<float>();
  for_each_sequence(sequences, [&](int b) {
    const int64_t begin = sequences.begin(b), end = sequences.end(b);
    importance(h.range(begin, end), k.range(begin, end), q.range(begin, end), heads, scale, score + begin);
  });
  return scores;
}

Tensor euti_scores_cpu(const Tensor& hidden, const Tensor& keys, const Tensor& queries, std::optional<double> scale) {
  constexpr Operator op = "euti_scores";
  const Heads heads = check_euti_scores_inputs(op, hidden, keys, queries, scale);
  return scores_of(op, hidden, keys, queries, Sequences::one(hidden.size(0)), heads, scale);
}

Tensor euti_scores_packed_cpu(const Tensor& hidden, const Tensor& keys, const Tensor& queries, const Tensor& cu_seqlens,
                              std::optional<double> scale) {
  constexpr Operator op = kEutiScoresPacked;
  const Heads heads = check_euti_scores_packed_inputs(hidden, keys, queries, cu_seqlens, scale);
  const Sequences sequences = read_sequences({op, "cu_seqlens"}, cu_seqlens, "hidden", hidden);
  return scores_of(op, hidden, keys, queries, sequences, heads, scale);
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("euti_scores", PACT_BOX("euti_scores", &pact::euti_scores_cpu));
  m.impl("euti_scores_packed", PACT_BOX("euti_scores_packed", &pact::euti_scores_packed_cpu));
}
