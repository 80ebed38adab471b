// The inner loops of the CPU backend: plain functions over plain memory, one table of them per instruction set.
// They know neither torch nor threads; csrc/cpu/<op>.cpp cuts the work into tasks and calls them.
#pragma once

#include <cstdint>

#include "../../dtype.h"

namespace pact {

// Row-major [n, width] elements in the caller's memory.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t width;
};

// Keys as the Gram micro-kernel reads them: panels of `panel` tokens, each panel [dk][panel] float32, zero-padded.
// A token's row is scaled by the power of two that brings its largest element into [0.5, 1): exact, and no dot
// product can overflow or vanish.
struct Panels {
  const float* data;
  const double* inv_norm;  // [padded n] 1 / ||row|| of the scaled row; 0 for a zero vector
  int64_t n;
  int64_t dk;
};

// Tokens per side of the square tiles of pairs that are one task: whole panels, and whole 64-bit words of adjacency.
constexpr int64_t kPairTile = 192;
constexpr int64_t kTileWords = kPairTile / 64;

// One pass over all pairs i < j. Densities are summed in fixed point, in units of 2^-32: exact integers, so that
// the order of the sum, and with it the number of threads, cannot be seen in the result.
struct PairPass {
  Panels keys;
  float exponent;  // density term: exp(exponent * dist), or exp(-(exponent * dist)^2)
  bool gaussian;
  int64_t* density;     // [n], added to atomically
  float cutoff;         // adjacency bit: dist <= cutoff
  uint64_t* adjacency;  // [padded n][words], or null
  int64_t words;        // 64-bit words per row
};
constexpr double kDensityUnit = 0x1p-32;

// One pass over all pairs i < j, that offers i to j. A key is distance bits << 32 | token number: integers, whose
// minimum does not depend on the order.
struct BeforePass {
  Panels keys;
  const int32_t* token;  // [padded n] the tokens' numbers, which decide ties
  uint64_t* nearest;     // [n], all ones before; the smallest key among the tokens before, taken atomically
  float* farthest;       // [tile columns] the largest distance of token 0 to one of the column
};

struct Nearest {
  float distance;
  int32_t position;  // in the list of centres
};

// Pairs of a query row and a head that share a key head: what one task of attention looks at side by side. A fixed
// number, for the sake of the order in which their weights are summed.
constexpr int64_t kPairs = 16;
constexpr float kLargestLogit = 3.402823466e38f;

struct QueryPairs {
  int64_t width;           // lanes: Kernels::lanes when that holds them all, else kPairs
  const float* queries;    // [dh][width], 0 in the lanes beyond the pairs
  const int32_t* visible;  // [width], how many keys the pair sees: 0 beyond
  float scale;
};

// The keys of one head: rows.width is dh, and key j is row j * heads + head.
struct HeadKeys {
  Rows rows;
  int64_t heads, head;
};

// The largest value of some tokens, and the first token that has it.
struct Largest {
  double value;
  int64_t token;
};

// The step of a determinantal selection after token j was chosen, its gain g: every token i gets the entry
// c[i] = (weight[i] * weight[j] * <row i, row j> - sum over the t steps before of their entries for i and j) / sqrt(g),
// and c[i]^2 less of a gain.
struct DppStep {
  const float* row;   // of j
  double weight;      // of j
  double divisor;     // sqrt(g)
  const double* own;  // [t] entries of j
  int64_t t, steps;
  const double* weights;  // [padded n] relevance / ||row||
  double* entries;        // [panels][steps][panel]; those of step t are written
  double* gain;           // [padded n]; -Inf for chosen tokens and padding
};

// The heads of one query, for a pass over all the keys.
struct QueryRow {
  int64_t heads, group;
  const float* queries;  // [heads][query_stride], zeros beyond dh
  int64_t query_stride;  // a multiple of kPairs
  int64_t logit_stride;  // of a head's logits
  float scale;
};

struct Kernels {
  const char* name;
  int64_t panel;
  int64_t lanes;  // of a vector

  // Panel `p` of the tokens rows[index[i]] (rows[i] when index is null), i in [0, n); also their scale and norm.
  void (*pack_panel)(Rows rows, const int64_t* index, int64_t n, int64_t p, float* panel, float* scale,
                     double* inv_norm);
  // The pairs of tile row ti and tile column tj, ti <= tj.
  void (*density_tile)(const PairPass& pass, int64_t ti, int64_t tj);
  // The largest distance of those pairs, and the lowest i that has it; (0, 0) when none is above 0.
  Largest (*max_distance_tile)(const Panels& keys, int64_t ti, int64_t tj);
  void (*nearest_before_tile)(const BeforePass& pass, int64_t ti, int64_t tj);
  // For each token of `tokens`, its nearest of `centers`, the first on a tie.
  void (*nearest)(const Panels& tokens, const Panels& centers, Nearest* out);
  // One row, scaled, as float32.
  void (*load_row)(Rows rows, int64_t i, float scale, float* out);
  // Distances of one loaded row to `count` others, with the very roundings of the Gram micro-kernel.
  void (*pair_distances)(const float* row, double inv_norm, const float* const* others, const double* inv_norms,
                         int64_t count, int64_t dk, float* out);
  // nearest[i] = min(nearest[i], distance of the row to token i) over panels [begin, end); the largest nearest there.
  Largest (*farthest_step)(const Panels& keys, int64_t begin, int64_t end, const float* row, double inv_norm,
                           float* nearest);
  // The same range of a determinantal selection's step; the largest gain there.
  Largest (*dpp_step)(const Panels& keys, int64_t begin, int64_t end, const DppStep& step);

  // out[k] += the sum of column k over the rows [first, last).
  void (*add_rows)(Rows rows, int64_t first, int64_t last, double* out);
  // logits[j] = <key head j / group of row i, query_mean[j]>, for all query heads.
  void (*head_logits)(Rows keys, int64_t i, const double* query_mean, int64_t heads, int64_t group, int64_t head_size,
                      double* logits);
  double (*row_norm)(Rows rows, int64_t i);
  // out = mean of the listed rows: float32 sums in list order, rounded once to the dtype of the rows.
  void (*mean_of_rows)(Rows rows, const int64_t* members, int64_t count, float* sum, void* out);

  // logits [end - begin][width] of keys [begin, end), those beyond float32 as its largest number, and the largest that
  // each pair sees. False when an element is NaN or Inf.
  bool (*attention_logits)(const HeadKeys& keys, const QueryPairs& pairs, int64_t begin, int64_t end, float* logits,
                           float* largest);
  // logits = exp(logits - largest), 0 where the pair does not see the key; sums [width] over the keys.
  void (*attention_exponentials)(const QueryPairs& pairs, int64_t begin, int64_t end, const float* largest,
                                 float* logits, double* sums);
  // columns[j] += the sum over the pairs of exponentials[j] * factors, as an integer.
  void (*attention_columns)(const QueryPairs& pairs, int64_t count, const float* exponentials, const double* factors,
                            int64_t* columns);

  // logits[h * stride + j] of keys [begin, end), whose rows are heads of dh; the rest as above.
  bool (*attention_row_logits)(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits);
  // In place exp(logit - largest) of `count` logits, a multiple of kPairs; returns their sum.
  double (*attention_row_exponentials)(float* logits, int64_t count);
  // received[j] = the sum over the heads of exponentials[h * stride + j] * factors[h].
  void (*attention_row_columns)(const float* exponentials, int64_t stride, const double* factors, int64_t heads,
                                int64_t count, float* received);

  bool (*all_finite)(const void* data, Dtype dtype, int64_t count);
};

// The table of the instruction set in use (csrc/cpu/isa.cpp).
const Kernels& kernels();

}  // namespace pact
