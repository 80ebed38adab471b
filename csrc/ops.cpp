// Every operator's schema, once. The backends register their implementations beside their code.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

STABLE_TORCH_LIBRARY(pact, m) {
  m.def("euti_scores(Tensor hidden, Tensor keys, Tensor queries, float? scale=None) -> Tensor");
  m.def("density(Tensor keys, float dn, *, bool gaussian=False) -> Tensor");
  m.def("dbdpc(Tensor keys, float dc, float dn, *, bool gaussian=False) -> (Tensor centers, Tensor labels)");
  m.def("assign(Tensor keys, Tensor centers, float max_distance) -> (Tensor labels, Tensor distances)");
  m.def("segment_mean(Tensor x, Tensor labels, int num_segments) -> (Tensor means, Tensor counts)");
  m.def("max_distance(Tensor keys) -> Tensor");
  m.def(
      "reduce(Tensor hidden, Tensor keys, Tensor queries, Tensor cluster_keys, float prune_ratio, float dc, "
      "float dn, float alpha, *, Tensor? scores=None, float? scale=None, bool gaussian=False) "
      "-> (Tensor merged, Tensor sizes, Tensor centers, Tensor labels)");
}
