// A tensor's shape, dtype, device and layout, as torch's users write them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cctype>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "error.h"

namespace pact {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename Sizes>
std::string shape_name(const Sizes& sizes) {
  std::string shape;
  for (const int64_t size : sizes) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  return '[' + shape + ']';
}

inline std::string shape_of(const Tensor& t) { return shape_name(t.sizes()); }

// Elements of a row, when a tensor's trailing dimensions are flattened.
inline int64_t width_of(const Tensor& t) {
  int64_t width = 1;
  for (int64_t d = 1; d < t.dim(); ++d) width *= t.size(d);
  return width;
}

// Tensor::scalar_type throws for a dtype that the stable ABI does not list. The numbers are those of every torch: files
// are written with them.
inline ScalarType scalar_type(const Tensor& t) {
  int32_t number;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &number));
  return static_cast<ScalarType>(number);
}

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:  // Python's name is C++'s in lower case
      std::string name = torch::headeronly::toString(dtype);
      for (char& c : name) c = char(std::tolower(static_cast<unsigned char>(c)));
      return name;
  }
}

inline std::string name_among(int32_t number, std::initializer_list<std::pair<int32_t, const char*>> names) {
  for (const auto& [known, name] : names)
    if (number == known) return name;
  return "unknown";
}

// "cpu", "cuda:1"
inline std::string device_of(const Tensor& t) {
  int32_t type, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index));
  const std::string name = name_among(type, {{aoti_torch_device_type_cpu(), "cpu"},
                                             {aoti_torch_device_type_cuda(), "cuda"},
                                             {aoti_torch_device_type_meta(), "meta"},
                                             {aoti_torch_device_type_xpu(), "xpu"},
                                             {aoti_torch_device_type_mps(), "mps"},
                                             {aoti_torch_device_type_privateuse1(), "privateuseone"}});
  return index < 0 ? name : name + ':' + std::to_string(index);
}

// "strided", "sparse_coo"
inline std::string layout_of(const Tensor& t) {
  int32_t layout;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t.get(), &layout));
  return name_among(layout, {{aoti_torch_layout_strided(), "strided"},
                             {aoti_torch_layout_sparse_coo(), "sparse_coo"},
                             {aoti_torch_layout_sparse_csr(), "sparse_csr"},
                             {aoti_torch_layout_sparse_csc(), "sparse_csc"},
                             {aoti_torch_layout_sparse_bsr(), "sparse_bsr"},
                             {aoti_torch_layout_sparse_bsc(), "sparse_bsc"},
                             {aoti_torch_layout__mkldnn(), "mkldnn"},
                             {aoti_torch_layout_jagged(), "jagged"}});
}

}  // namespace pact
