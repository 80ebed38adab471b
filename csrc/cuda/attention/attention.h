// What keys receive from attention, averaged over heads and over the chosen queries.
#pragma once

#include "../launch.h"
#include "attention_rows.h"

namespace pact {

struct AttentionParams {
  DeviceRows queries;  // [q, Hq * dh]; run_attention: the chosen ones as run_gather_heads leaves them, or all
  DeviceRows keys;     // [n, Hk * dh]
  AttentionRows rows;
  int n;
  int head_size, query_heads, group;  // dh, Hq, Hq / Hk
  float scale;
  float* received;  // [n]
  void* workspace;
  cudaStream_t stream;
};

// One query (rows.count is 1): a pass over the keys. Any alignment.
cudaError_t run_attention_row(const AttentionParams& params);
size_t attention_row_workspace_bytes(int n, int head_size, int query_heads);

// More. Queries and keys are aligned in each head: head_size is whole 16-byte vectors (zeros at its end change
// nothing), and rows begin on 16 bytes.
cudaError_t run_attention(const AttentionParams& params);
size_t attention_workspace_bytes(int n, int count, int query_heads);

// out [count][heads][out_size] = the chosen rows, each head zero-padded to out_size; zeros for a row that there is not.
struct GatherHeadsParams {
  DeviceRows from;  // [.., heads * head_size]; any alignment
  AttentionRows rows;
  int heads, head_size;
  void* out;
  int out_size;  // whole 16-byte vectors
  cudaStream_t stream;
};
cudaError_t run_gather_heads(const GatherHeadsParams& params);

}  // namespace pact
