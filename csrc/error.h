// What the operators raise, and the words of it. A message reads
//   pact::dbdpc: keys must be [n, dk] or [n, Hk, dh], got [3, 4, 5, 6]
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace pact {

// Already says all there is to say: run_operator (boxed.h) lets it through.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Thrown where nobody knows the operator; run_operator adds its name.
struct OutOfMemory : std::bad_alloc {
  explicit OutOfMemory(std::string wanted) : wanted(std::move(wanted)) {}
  std::string wanted;  // "4096 bytes", "[64, 16] of float32"
};

// No streams: they look their words up in the locale, of which a process with two C++ runtimes may have the other's.
inline const std::string& word(const std::string& x) { return x; }
inline std::string word(const char* x) { return x; }
inline std::string word(char x) { return std::string(1, x); }
template <typename T>
std::enable_if_t<std::is_integral_v<T>, std::string> word(T x) {
  return std::to_string(x);
}

// The shortest number that reads back as the same: never "must be in [0, 1], got 1".
inline std::string word(double x) {
  if (std::isnan(x)) return "nan";
  char digits[32];
  for (int precision = 6; precision <= 17; ++precision) {
    std::snprintf(digits, sizeof digits, "%.*g", precision, x);
    if (std::strtod(digits, nullptr) == x) break;
  }
  return digits;
}

template <typename... Words>
std::string joined(const Words&... words) {
  std::string message;
  ((message += word(words)), ...);
  return message;
}

struct Operator {
  constexpr Operator(const char* name, bool packed = false) : name(name), packed(packed) {}

  const char* name;
  bool packed;  // takes several sequences, of which some, and so all, may have no rows
};

template <typename... Words>
[[noreturn]] void fail(Operator op, const Words&... words) {
  throw Error(joined("pact::", op.name, ": ", words...));
}

// One argument of one operator, as the messages name it.
struct Argument {
  Operator op;
  const char* name;

  template <typename... Words>
  [[noreturn]] void fail(const Words&... words) const {
    pact::fail(op, name, ' ', words...);
  }
};

}  // namespace pact
