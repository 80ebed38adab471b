// What a launch may ask for, of every architecture that there is code for: the least of them where they differ.
#pragma once

#include <cstdio>
#include <map>
#include <stdexcept>

namespace emulator {

constexpr unsigned kSharedBytes = 48 * 1024;      // without being asked for
constexpr unsigned kMostSharedBytes = 99 * 1024;  // 8.6, 8.9 and 12.0; 8.0 has 163 KB, 9.0 and 10.0 have 227 KB

// Of the kernels that ask for more shared memory than every kernel gets.
inline std::map<const void*, unsigned>& allowed_shared_bytes() {
  static std::map<const void*, unsigned> all;
  return all;
}

// Throws std::runtime_error, which says what is too much, unless a card would take the launch.
template <typename Size>
void check_launch(const void* kernel, Size grid, Size block, unsigned shared_bytes) {
  const auto fail = [](const char* what, unsigned long long is, unsigned long long most) {
    char text[128];
    std::snprintf(text, sizeof text, "launch limit: %s %llu, of at most %llu", what, is, most);
    throw std::runtime_error(text);
  };
  const auto check = [&](const char* what, unsigned long long is, unsigned long long most) {
    if (is == 0 || is > most) fail(what, is, most);
  };
  check("grid.x", grid.x, (1ull << 31) - 1);
  check("grid.y", grid.y, 65535);
  check("grid.z", grid.z, 65535);
  check("block.z", block.z, 64);
  check("threads of a block", 1ull * block.x * block.y * block.z, 1024);
  const auto own = allowed_shared_bytes().find(kernel);
  const unsigned most = own == allowed_shared_bytes().end() ? kSharedBytes : own->second;
  if (shared_bytes > most) fail("bytes of shared memory", shared_bytes, most);
}

}  // namespace emulator
