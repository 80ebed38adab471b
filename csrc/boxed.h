// What every operator does around its own work, whatever the backend: PACT_BOX registers it in place of TORCH_BOX.
#pragma once

#include <torch/csrc/stable/library.h>

#include "error.h"
#include "floating_point.h"

namespace pact {

using Boxed = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);

// No error leaves without the operator's name: not memory that ran out, not what torch's C interface says.
inline void run_operator(const char* op, Boxed boxed, StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  const DefaultFloatingPoint floating_point;
  try {
    boxed(stack, inputs, outputs);
  } catch (const Error&) {
    throw;
  } catch (const OutOfMemory& error) {
    fail(op, "out of memory, allocating ", error.wanted);
  } catch (const std::bad_alloc&) {
    fail(op, "out of memory");
  } catch (const std::exception& error) {
    fail(op, error.what());
  }
}

}  // namespace pact

#define PACT_BOX(op, function)                                             \
  [](StableIValue* stack, uint64_t inputs, uint64_t outputs) {             \
    ::pact::run_operator(op, TORCH_BOX(function), stack, inputs, outputs); \
  }
