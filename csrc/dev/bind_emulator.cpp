// The emulator's own tests: right and wrong kernels by name.
#include <functional>
#include <map>

#include "bindings.h"
#include "wrong_kernels.cuh"

void bind_emulator(py::module_& m) {
  m.def("self_test_names", [] {
    py::list names;
    for (const auto& [name, run] : emulator::self_tests()) names.append(name);
    return names;
  });
  m.def(
      "self_test", [](const std::string& name, uint64_t seed) { return emulator::self_tests().at(name)(seed); },
      py::arg("name"), py::arg("seed"), "Runs one kernel of wrong_kernels.cuh; true when its result is right.");
  m.def(
      "use_tensor_cores",
      [](int major) { emulator::engine().tensor_cores = major < 9 ? emulator::kAmpere : emulator::kHopper; },
      py::arg("major"), "Those of a compute capability, from now on.");
  m.def("mma", [](const std::string& dtype, py::array a, py::array b, py::array c, uint64_t seed) {
    pact::dev::with_type(dtype, [&](auto element) {
      using T = decltype(element);
      if constexpr (sizeof(T) == 2)
        emulator::launch(emulator::mma_kernel<T>, 1, 32, 768, seed, false, pact::dev::data<const T>(a),
                         pact::dev::data<const T>(b), pact::dev::data<float>(c));
    });
  });
}
