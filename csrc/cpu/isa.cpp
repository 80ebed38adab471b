// Which instruction set the inner loops use, and what this library says of itself (called through ctypes).
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../error.h"
#include "simd/kernels.h"

namespace pact {

namespace portable {
extern const Kernels table;
}
#if PACT_HAS_avx2
namespace avx2 {
extern const Kernels table;
}
#endif
#if PACT_HAS_avx512
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Isa {
  const Kernels* kernels;
  bool usable;
};

// Best first.
const Isa* isas(int* count) {
  static const Isa all[] = {
#if PACT_HAS_avx512
      {&avx512::table, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")},
#endif
#if PACT_HAS_avx2
      {&avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")},
#endif
      {&portable::table, true},
  };
  *count = sizeof all / sizeof *all;
  return all;
}

const Kernels* find(const char* name) {
  int count;
  const Isa* all = isas(&count);
  for (int i = 0; i < count; ++i)
    if (all[i].usable && (!name || !std::strcmp(all[i].kernels->name, name))) return all[i].kernels;
  return nullptr;
}

// What PACT_CPU_ISA said at the first look, to be told even when it says something else by then; empty is unset.
const std::string& wanted() {
  static const char* const set = std::getenv("PACT_CPU_ISA");
  static const std::string name = set ? set : "";
  return name;
}

// Null when PACT_CPU_ISA names none that can be used.
std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen = find(wanted().empty() ? nullptr : wanted().c_str());
  return chosen;
}

std::string names(bool usable_only) {
  int count;
  const Isa* all = isas(&count);
  std::string list;
  for (int i = 0; i < count; ++i)
    if (all[i].usable || !usable_only) list += std::string(list.empty() ? "" : ", ") + '"' + all[i].kernels->name + '"';
  return '[' + list + ']';
}

}  // namespace

const Kernels& kernels() {
  const Kernels* chosen = current();
  if (!chosen) throw Error(joined("pact: PACT_CPU_ISA must be one of ", names(true), ", got \"", wanted(), '"'));
  return *chosen;
}

}  // namespace pact

#define PACT_EXPORT extern "C" __attribute__((visibility("default")))

// 1 when the named instruction set is now in use, 0 when it is unknown or this processor lacks it.
PACT_EXPORT int pact_cpu_use_isa(const char* name) {
  const pact::Kernels* wanted = pact::find(name);
  if (wanted) pact::current() = wanted;
  return wanted != nullptr;
}

// JSON; the pointer stays valid until the next call on this thread.
PACT_EXPORT const char* pact_cpu_info() {
  thread_local std::string json;
  const pact::Kernels* chosen = pact::current();
  json = std::string("{\"version\": \"" PACT_VERSION "\", \"compiler\": \"") + __VERSION__ +
         "\", \"torch_abi_floor\": \"2.10\", \"isa\": " +
         (chosen ? '"' + std::string(chosen->name) + '"' : std::string("null")) +
         ", \"isa_usable\": " + pact::names(true) + ", \"isa_built\": " + pact::names(false) + "}";
  return json.c_str();
}
