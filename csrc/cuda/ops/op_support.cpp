#include "op_support.h"

namespace pact {
namespace {

constexpr int kVectorBytes = 16;
constexpr int kLowestMajor = 8;

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

ScalarType scalar_type_of(Dtype dtype) {
  return dtype == Dtype::kFloat32   ? ScalarType::Float
         : dtype == Dtype::kFloat16 ? ScalarType::Half
                                    : ScalarType::BFloat16;
}

bool rows_are_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int64_t d = t.dim() - 1; d > 0; --d) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

bool aligned(const DeviceRows& rows, int n) {
  const int64_t bytes = bytes_of(rows.dtype);
  const bool stride_fits = n == 1 || rows.stride * bytes % kVectorBytes == 0;
  return reinterpret_cast<uintptr_t>(rows.data) % kVectorBytes == 0 && stride_fits &&
         rows.width * bytes % kVectorBytes == 0;
}

DeviceRows rows_from(DeviceRows rows, int begin) {
  rows.data = static_cast<const char*>(rows.data) + begin * rows.stride * bytes_of(rows.dtype);
  return rows;
}

// "NVIDIA A100 (sm_80)"
std::string card() {
  int device = 0;
  cudaDeviceProp properties;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess)
    return "this card";
  return std::string(properties.name) + " (sm_" + std::to_string(properties.major) + std::to_string(properties.minor) +
         ")";
}

}  // namespace

Launch::Launch(Operator op, const Tensor& input)
    : op_(op), device_(DeviceType::CUDA, input.get_device_index()), guard_(input.get_device_index()) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(input.get_device_index(), &stream));
  stream_ = static_cast<cudaStream_t>(stream);
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, input.get_device_index()));
  if (major < kLowestMajor) pact::fail(op, card(), " is too old: sm_80 (Ampere) or newer is needed");
}

void Launch::fail(cudaError_t status) const {
  cudaGetLastError();  // a launch error stays pending, and would surface in the next call
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorUnsupportedPtxVersion)
    pact::fail(op_, "this build has no code for ", card(),
               ", only for " PACT_CUDA_ARCHS "; build it with TORCH_CUDA_ARCH_LIST naming that card (",
               cudaGetErrorName(status), ")");
  pact::fail(op_, "CUDA error ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

// torch's C interface says of an allocation only that it failed. An error of work before would still be there to ask
// for; what is left is memory. pact_ext/ops.py knows the words "CUDA out of memory": no type of exception but
// RuntimeError comes through the stable ABI.
void Launch::fail_allocating(const std::string& wanted) const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  pact::fail(op_, "CUDA out of memory, allocating ", wanted, ": ", free, " of ", total, " bytes are free");
}

Tensor Launch::empty(std::initializer_list<int64_t> shape, ScalarType dtype) const {
  try {
    return torch::stable::empty({shape.begin(), shape.size()}, dtype, std::nullopt, device_);
  } catch (const std::exception&) {
    fail_allocating(shape_name(shape) + " of " + dtype_name(dtype));
  }
}

Tensor Launch::empty_on_host(std::initializer_list<int64_t> shape, ScalarType dtype, bool pinned) const {
  try {
    return torch::stable::empty({shape.begin(), shape.size()}, dtype, std::nullopt,
                                torch::stable::Device(DeviceType::CPU), pinned);
  } catch (const std::exception&) {
    pact::fail(op_, "out of memory, allocating ", shape_name(shape), " of ", dtype_name(dtype), " on the host");
  }
}

Tensor Launch::contiguous(const Tensor& t) const {
  try {
    return torch::stable::contiguous(t);
  } catch (const std::exception&) {
    fail_allocating(shape_of(t) + " of " + dtype_name(scalar_type(t)));
  }
}

TensorRows::TensorRows(const Launch& launch, const char* name, const Tensor& t)
    : owner(rows_are_contiguous(t) ? t : launch.contiguous(t)), n(int(t.size(0))) {
  const int64_t width = width_of(t);
  constexpr int64_t kWidest = INT32_MAX - 1024;  // loops step past the end of a row by a warp's vectors at most
  if (width > kWidest)
    Argument{launch.op(), name}.fail("must have at most ", kWidest, " elements per row, got ", shape_of(t));
  rows = {owner.const_data_ptr(), dtype_of(t), n == 1 ? width : owner.stride(0), int(width)};
}

TensorRows TensorRows::range(int begin, int n) const {
  TensorRows some = *this;
  some.rows = rows_from(rows, begin);
  some.n = n;
  return some;
}

GramKeys::GramKeys(const Launch& launch, const DeviceRows& rows, int n, double* inv_norm, int* bad)
    : rows_(rows), inv_norm_(inv_norm) {
  PrepareKeysParams params{rows, n, nullptr, rows.width, inv_norm, bad, launch.stream()};
  const bool in_place = rows.dtype == Dtype::kFloat16 && aligned(rows, n);  // others are scaled into range
  if (!in_place) {
    const int per_vector = int(kVectorBytes / bytes_of(rows.dtype));
    const int width = int((int64_t{rows.width} + per_vector - 1) / per_vector * per_vector);
    owner_.emplace(launch.empty({n, width}, scalar_type_of(rows.dtype)));
    params.out = owner_->mutable_data_ptr();
    params.out_width = width;
    rows_ = {owner_->const_data_ptr(), rows.dtype, width, width};
  }
  if (params.out || inv_norm) launch.check(run_prepare_keys(params));
}

KeyRows GramKeys::list(const int* index, int begin) const {
  return {rows_from(rows_, begin), inv_norm_ + begin, index};
}

EutiParams euti_params(const Launch& launch, const TensorRows& hidden, const TensorRows& keys,
                       const TensorRows& queries, const Heads& heads, std::optional<double> scale, float* scores,
                       int* bad, void* workspace) {
  EutiParams params{};
  params.hidden = hidden.rows;
  params.keys = keys.rows;
  params.queries = queries.rows;
  params.n = hidden.n;
  params.head_size = int(heads.size);
  params.query_heads = int(heads.queries);
  params.group = int(heads.group);
  params.scale = float(scale.value_or(1 / std::sqrt(double(heads.size))));
  params.scores = scores;
  params.bad = bad;
  params.workspace = workspace;
  params.stream = launch.stream();
  return params;
}

// Pinned memory from torch's allocator, which keeps it: the copy does not wait for the host.
Readback::Readback(const Launch& launch, const int* source, int count)
    : launch_(launch), host_(launch.empty_on_host({count}, ScalarType::Int, true)) {
  launch.check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming));
  cudaError_t status =
      cudaMemcpyAsync(host_.mutable_data_ptr(), source, count * sizeof(int), cudaMemcpyDeviceToHost, launch.stream());
  if (status == cudaSuccess) status = cudaEventRecord(arrived_, launch.stream());
  if (status == cudaSuccess) return;
  cudaEventDestroy(arrived_);
  launch.check(status);
}

Readback::~Readback() {
  cudaEventSynchronize(arrived_);  // whatever happened since, the copy may still be writing
  cudaEventDestroy(arrived_);
}

const int* Readback::wait() {
  launch_.check(cudaEventSynchronize(arrived_));
  return static_cast<const int*>(host_.const_data_ptr());
}

void raise_not_finite(const Launch& launch, int n, const std::vector<NamedRows>& inputs) {
  Workspace workspace;
  const auto bad = workspace.reserve<int>(1);
  workspace.allocate(launch);
  for (const NamedRows& input : inputs) {
    launch.fill_bytes(workspace[bad], 0, sizeof(int));
    launch.check(run_check_rows({input.rows, n, workspace[bad], launch.stream()}));
    if (Readback(launch, workspace[bad], 1).wait()[0])
      Argument{launch.op(), input.name}.fail("must be finite, got NaN or Inf among its values");
  }
  fail_scores(launch.op());
}

void check_not_capturing(const Launch& launch) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  launch.check(cudaStreamIsCapturing(launch.stream(), &status));
  if (status != cudaStreamCaptureStatusNone)
    throw Error(joined("pact::", launch.op().name,
                       " cannot be captured in a CUDA graph: how many centers it returns is read back"));
}

}  // namespace pact
