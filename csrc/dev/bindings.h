// What the bindings of the development module share: numpy arrays as device memory, element types by name.
//
// Each bind_<x>.cpp defines one function `void bind_<x>(py::module_& m)` and module.cpp calls it. A binding checks
// nothing that the launcher of the kernel would have seen to: tests pass arrays of the right size.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "../cuda/device/convert.cuh"
#include "../cuda/device/platform.cuh"

namespace py = pybind11;

namespace pact::dev {

// The elements of an array that is contiguous and of the right type (half types: uint16).
template <typename T>
T* data(py::array array) {
  using Element = std::conditional_t<std::is_same_v<std::remove_const_t<T>, device::float16> ||
                                         std::is_same_v<std::remove_const_t<T>, device::bfloat16>,
                                     uint16_t, std::remove_const_t<T>>;
  if (!array.dtype().is(py::dtype::of<Element>()) || !(array.flags() & py::array::c_style))
    throw std::invalid_argument("expected a contiguous array of " + std::string(py::str(py::dtype::of<Element>())) +
                                ", got " + std::string(py::str(array.dtype())));
  if constexpr (std::is_const_v<T>)
    return static_cast<T*>(array.data());
  else
    return static_cast<T*>(array.mutable_data());
}

// None is the null pointer.
template <typename T>
T* data(std::optional<py::array> array) {
  return array ? data<T>(*array) : nullptr;
}

// Calls f(T()) with the element type of that name.
template <typename F>
void with_type(const std::string& dtype, const F& f) {
  if (dtype == "float32")
    f(float());
  else if (dtype == "float16")
    f(device::float16());
  else if (dtype == "bfloat16")
    f(device::bfloat16());
  else
    throw std::invalid_argument("no element type " + dtype);
}

}  // namespace pact::dev
