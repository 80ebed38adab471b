// The clustering of one sequence after the other on one stream: one memory serves all, what comes of each stays.
#pragma once

#include "../../sequences.h"
#include "clustering.h"

namespace pact {

class ClusterStages {
 public:
  // Reserves memory; `most`: keys of one clustering at most. What else a caller needs is reserved in `workspace` before
  // `start`.
  ClusterStages(const Launch& launch, const Sequences& sequences, int most);
  // `keys`: of all sequences. What is not finite among them sets *bad(), unless `check` is false.
  void start(const DeviceRows& keys, bool check = true);

  const Launch& launch() const { return launch_; }
  const Sequences& sequences() const { return sequences_; }
  const GramKeys& keys() const { return *keys_; }
  // [count + 1], zero at first: how many centers each sequence has, and whether an input held a NaN or Inf.
  int* status() const { return workspace[status_]; }
  int* bad() const { return status() + sequences_.count(); }
  // [rows] int64, of each sequence in its own numbering.
  const Tensor& labels() const { return *labels_; }
  int64_t* labels_of(int b) const { return labels_->mutable_data_ptr<int64_t>() + sequences_.begin(b); }
  // [rows]: the centers of each sequence, in its own numbering, from where its rows begin. See `name_centers`.
  int* center_token(int b) const { return workspace[center_token_] + sequences_.begin(b); }

  // The steps of Clustering for sequence b, or those of its tokens [m] that are kept (null: all).
  void select(int b, const int* kept, int m, const Config& config);
  void label(const int* kept, int64_t* labels) const { clustering_.label(launch_, workspace, kept, labels); }
  void keep(const int64_t* labels, int wanted, bool at_most) const {
    clustering_.keep(launch_, workspace, labels, wanted, at_most);
  }
  void release() { clustering_.release(); }
  // The tokens that the centers are, of which there are `most` at most: to either or both of these.
  void name_centers(int b, const int* kept, int most, int* tokens, int64_t* centers) const;

  Workspace workspace;

 private:
  const Launch& launch_;
  const Sequences& sequences_;
  Clustering clustering_;
  Workspace::Slot<int> status_, center_token_;
  Workspace::Slot<double> norms_;
  std::optional<Tensor> labels_;
  std::optional<GramKeys> keys_;
};

// select(b) and label(b) for every sequence that has rows, and `status` on the host: one wait for all, while the stream
// goes on with the last one's labels.
template <typename Stages>
std::vector<int> run_sequences(const ClusterStages& clusters, Stages& stages) {
  const Sequences& sequences = clusters.sequences();
  int last = sequences.count() - 1;
  while (sequences.length(last) == 0) --last;
  for (int b = 0; b < last; ++b) {
    if (sequences.length(b) == 0) continue;
    stages.select(b);
    stages.label(b);
  }
  stages.select(last);
  Readback readback(clusters.launch(), clusters.status(), sequences.count() + 1);
  stages.label(last);
  const int* found = readback.wait();
  return {found, found + sequences.count() + 1};
}

}  // namespace pact
