// Means of the rows of each label: a stable counting sort by label, then one pass over the rows.
#pragma once

#include "../launch.h"

namespace pact {

// Sequences that are packed: each has its rows and its segments. None: all are one.
struct SegmentSequences {
  int count;
  const int* cu_rows;      // [count + 1] where each sequence's rows begin, and where the last ones end, at n
  const int* cu_segments;  // [count + 1] the same of the segments
  int most_segments;       // of any sequence
};

struct SegmentMeanParams {
  DeviceRows x;           // [n, d]; any alignment (16-byte loads where it allows)
  const int64_t* labels;  // [n]; a label outside [0, segments) counts as -1
  int n, segments;
  void* means;      // [segments, d], dtype of x, contiguous; zeros for an empty segment
  int64_t* counts;  // [segments]
  void* workspace;  // segment_mean_workspace_bytes(n, segments)
  cudaStream_t stream;
  SegmentSequences sequences;
};
cudaError_t run_segment_mean(const SegmentMeanParams& params);
size_t segment_mean_workspace_bytes(int n, int segments);

}  // namespace pact
