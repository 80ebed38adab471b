// Global memory that sees races: two threads of one launch touch the same bytes, one of them writes, not both by atomic
// operations, and nothing orders them. Within a block a barrier does; between blocks nothing.
//
// Kernels are compiled with -fsanitize=thread, whose calls before each access (__tsan_read4 and the like) come here and
// not to a sanitizer's runtime: so every block is compared with every other, whatever the order they run in.
#pragma once

#include <cstddef>

namespace emulator {

// A plain read by emulated hardware, `bytes` of them; gives the pointer back.
const void* read_global(const void* from, size_t bytes);

}  // namespace emulator
