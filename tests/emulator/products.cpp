#include "products.h"

#include <cstring>

namespace emulator {
namespace {

GroupProducts& own_products() { return engine().current->products; }

}  // namespace

void begin_products() { own_products().begun = true; }

void order_product(float (&acc)[64], unsigned left, unsigned right, int k, bool accumulate,
                   void (*make)(Thread* const*, const GroupProduct&)) {
  GroupProducts& own = own_products();
  if (left % 512 || right % 512)
    engine().fail("misaligned", "a side of a warpgroup's product at byte %u or %u: no multiple of 512", left, right);
  if (!own.begun) engine().fail("unfenced accumulators", "a product before wgmma_begin");
  if (!own.acc) {
    memcpy(own.sums, acc, sizeof acc);
    own.acc = acc;
    memset(acc, 0xff, sizeof acc);  // NaN
  }
  if (own.acc != acc) engine().fail("products under way", "a product into other accumulators");
  own.pending.push_back({left, right, k, accumulate, own.committed, make});
}

void commit_products() { ++own_products().committed; }

void finish_products(int kept) {
  Thread* self = engine().current;
  engine().collective("wgmma_wait", ~0u, *self, [kept](Thread* const* lanes, unsigned came) {
    if (came != ~0u) engine().fail("divergent collective", "wgmma_wait in a warp of fewer than 32 threads");
    const std::vector<GroupProduct> pending = lanes[0]->products.pending;
    size_t done = 0;
    for (; done < pending.size() && pending[done].group < lanes[0]->products.committed - kept; ++done)
      pending[done].make(lanes, pending[done]);
    for (int l = 0; l < 32; ++l) {
      auto& own = lanes[l]->products.pending;
      if (own.size() != pending.size())
        engine().fail("divergent collective", "lanes of a warp wait for different products");
      own.erase(own.begin(), own.begin() + long(done));
    }
  });
}

void take_sums(float (&acc)[64]) {
  GroupProducts& own = own_products();
  if (!own.pending.empty()) engine().fail("products under way", "a product that was never committed");
  if (own.acc) memcpy(own.acc, own.sums, sizeof acc);
  own.acc = nullptr;
  own.begun = false;
}

}  // namespace emulator
