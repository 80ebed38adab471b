// Copies to the host that land when they are waited for, and not before: until then the host reads what nobody wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

// How many copies had been enqueued when it was recorded.
struct CUevent_st {
  uint64_t copies = 0;
};

namespace emulator {

class Transfers {
 public:
  // The source is read in the order of the stream, so now.
  void enqueue(void* to, const void* from, size_t bytes) {
    const auto* begin = static_cast<const unsigned char*>(from);
    pending_.push_back({to, {begin, begin + bytes}, ++enqueued_});
    std::memset(to, kUnwritten, bytes);
  }
  uint64_t enqueued() const { return enqueued_; }
  // All of the first `count` copies.
  void land(uint64_t count) {
    size_t left = 0;
    for (Copy& copy : pending_) {
      if (copy.number <= count)
        std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
      else
        pending_[left++] = std::move(copy);
    }
    pending_.resize(left);
  }

 private:
  static constexpr int kUnwritten = 0xa5;
  struct Copy {
    void* to;
    std::vector<unsigned char> bytes;
    uint64_t number;
  };
  std::vector<Copy> pending_;
  uint64_t enqueued_ = 0;
};

inline Transfers& transfers() {
  static Transfers all;
  return all;
}

}  // namespace emulator
