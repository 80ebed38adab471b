// What host code gets wrong, and its right twin: one line for each, "name: ok" or "name: " and what was said or read.
#include <cstdio>
#include <exception>

#include "cuda_runtime_api.h"

namespace {

struct Size {
  unsigned x = 1, y = 1, z = 1;
};
void kernel(int) {}

void say(const char* name, bool ok, const char* what) { std::printf("%s: %s\n", name, ok ? "ok" : what); }

// Reads back a 7 and overwrites where it came from, as a later kernel would.
template <typename Wait>
void read_back(const char* name, const Wait& wait) {
  int there = 7, here = 0;
  cudaEvent_t event;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  wait(event, [&] {
    cudaMemcpyAsync(&here, &there, sizeof there, cudaMemcpyDeviceToHost, nullptr);
    there = 8;
  });
  say(name, here == 7, here == int(0xa5a5a5a5) ? "not there" : "another number");
  cudaEventRecord(event, nullptr);  // lands the rest, whose memory goes
  cudaEventSynchronize(event);
  cudaEventDestroy(event);
}

void launch(const char* name, Size grid, Size block, unsigned shared_bytes) {
  try {
    emulator::check_launch(reinterpret_cast<const void*>(&kernel), grid, block, shared_bytes);
    say(name, true, "");
  } catch (const std::exception& error) {
    say(name, false, error.what());
  }
}

}  // namespace

int main() {
  read_back("a copy that is waited for", [](cudaEvent_t event, auto copy) {
    copy();
    cudaEventRecord(event, nullptr);
    cudaEventSynchronize(event);
  });
  read_back("a copy that is not waited for", [](cudaEvent_t event, auto copy) {
    copy();
    cudaEventRecord(event, nullptr);
  });
  read_back("a wait for what came before the copy", [](cudaEvent_t event, auto copy) {
    cudaEventRecord(event, nullptr);
    copy();
    cudaEventSynchronize(event);
  });
  launch("the largest launch", {0x7fffffff, 65535, 65535}, {1024}, 48 * 1024);
  launch("no block", {0}, {1}, 0);
  launch("too many rows of blocks", {1, 65536}, {1}, 0);
  launch("too many threads", {1}, {64, 17}, 0);
  launch("more shared memory than was asked for", {1}, {1}, 48 * 1024 + 1);
  const bool too_much = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * 1024);
  say("more than there is", !too_much, "cudaErrorInvalidValue");
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 72 * 1024);
  launch("as much as was asked for", {1}, {1}, 72 * 1024);
  launch("more than was asked for", {1}, {1}, 72 * 1024 + 1);
}
