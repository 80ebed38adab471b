// Subnormal numbers and rounding belong to each thread: torch.set_flush_denormal(True), on the thread that calls it,
// would leave the answer to which thread ran a task.
#pragma once

#include <cfenv>

namespace pact {

// IEEE arithmetic as the standard has it on this thread, until the scope ends.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatingPoint() { std::fesetenv(&before_); }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;

 private:
  std::fenv_t before_;
};

}  // namespace pact
