// Fibres: stacks that take turns on one thread. Hand-switched on x86-64, ucontext elsewhere.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer, and continues where `to` was saved.
__attribute__((naked, noinline)) inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}
#endif

// A stack with a guard page below it, kept for the next fibre that needs one.
class Stack {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kBytes = 256 << 10;
#else
  static constexpr size_t kBytes = 64 << 10;
#endif
  Stack() {
    base_ = mmap(nullptr, kGuard + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(base_, kGuard, PROT_NONE);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { munmap(base_, kGuard + kBytes); }
  char* bottom() const { return static_cast<char*>(base_) + kGuard; }

 private:
  static constexpr size_t kGuard = 4096;
  void* base_;
};

// One side of a switch: a fibre, or the scheduler that resumes it.
class Context {
 public:
  // Makes this context a fibre that runs entry() on `stack` when first switched to. entry never returns.
  void start(const Stack& stack, void (*entry)()) {
    bottom_ = stack.bottom();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack.bottom(), Stack::kBytes);  // an earlier fibre may have been left half way
    size_ = Stack::kBytes;
    fake_stack_ = nullptr;
#endif
#if defined(__x86_64__)
    uintptr_t* top = reinterpret_cast<uintptr_t*>(stack.bottom() + Stack::kBytes);
    *--top = 0;  // the return address of entry, which also aligns the stack as a call would
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = 0;
    sp_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = Stack::kBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Leaves this context and continues `to`; `for_good` when this context will never be resumed.
  void switch_to(Context& to, [[maybe_unused]] bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, to.bottom_, to.size_);
#endif
#if defined(__x86_64__)
    switch_stack(&sp_, to.sp_);
#else
    swapcontext(&context_, &to.context_);
#endif
    arrived();
  }

  // Whether this fibre's stack holds what is pointed at.
  bool on_stack(const void* pointer) const {
    return size_t(static_cast<const char*>(pointer) - static_cast<const char*>(bottom_)) < Stack::kBytes;
  }

  // The first thing a new fibre does: `from` is who switched to it.
  void entered([[maybe_unused]] Context& from) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#endif
  }

 private:
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  const void* bottom_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
#endif
#if defined(__x86_64__)
  void* sp_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace emulator
