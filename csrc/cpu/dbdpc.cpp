#include "sequences.h"

namespace pact {
namespace {

PackedClusters clusters_of(Operator op, const Tensor& keys, const Sequences& sequences, double dc, DensityForm form) {
  const FiniteRows k({op, "keys"}, keys);
  return cluster_sequences(sequences, [&](int b) {
    const InputRows own = k.range(sequences.begin(b), sequences.end(b));
    return Clustering(own.rows, nullptr, own.n, dc, form).cluster();
  });
}

std::tuple<Tensor, Tensor> dbdpc_cpu(const Tensor& keys, double dc, double dn, bool gaussian) {
  check_dbdpc_inputs("dbdpc", keys, dc, dn);
  const PackedClusters found = clusters_of("dbdpc", keys, Sequences::one(keys.size(0)), dc, {dn, gaussian});
  return {found.centers, found.labels};
}

std::tuple<Tensor, Tensor, Tensor> dbdpc_packed_cpu(const Tensor& keys, const Tensor& cu_seqlens, double dc, double dn,
                                                    bool gaussian) {
  check_dbdpc_packed_inputs(keys, cu_seqlens, dc, dn);
  const Sequences sequences = read_sequences({kDbdpcPacked, "cu_seqlens"}, cu_seqlens, "keys", keys);
  const PackedClusters found = clusters_of(kDbdpcPacked, keys, sequences, dc, {dn, gaussian});
  return {found.centers, found.labels, found.cu_centers};
}

}  // namespace
}  // namespace pact

STABLE_TORCH_LIBRARY_IMPL(pact, CPU, m) {
  m.impl("dbdpc", PACT_BOX("dbdpc", &pact::dbdpc_cpu));
  m.impl("dbdpc_packed", PACT_BOX("dbdpc_packed", &pact::dbdpc_packed_cpu));
}
