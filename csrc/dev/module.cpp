// _pact_dev: the CUDA kernels, compiled for the host and run by the emulator of tests/emulator on numpy arrays. For
// tests; no wheel holds it.
#include "bindings.h"

void bind_emulator(py::module_& m);
void bind_euti(py::module_& m);
void bind_gram(py::module_& m);
void bind_segment_mean(py::module_& m);
void bind_select(py::module_& m);

PYBIND11_MODULE(_pact_dev, m) {
  bind_emulator(m);
  bind_euti(m);
  bind_gram(m);
  bind_segment_mean(m);
  bind_select(m);
}
