// Copies from global to shared memory that run while the thread goes on (cp.async, sm_80).
#pragma once

#include "platform.cuh"

#ifndef PACT_EMULATED
namespace pact::device {

// 16 bytes, both addresses multiples of 16; zeros when not `valid`, and then nothing is read.
template <typename T>
__device__ __forceinline__ void async_copy16(Shared<T> to, const T* from, bool valid = true) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// Closes this thread's current group of copies.
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most kPending of this thread's latest groups are under way. Others see the bytes after a barrier.
template <int kPending>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace pact::device
#endif
