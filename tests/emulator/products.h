// What a warpgroup has ordered and waits for: made as late as may be (warpgroup.h).
#pragma once

#include "engine.h"

namespace emulator {

void begin_products();
void order_product(float (&acc)[64], unsigned left, unsigned right, int k, bool accumulate,
                   void (*make)(Thread* const*, const GroupProduct&));
void commit_products();
void finish_products(int kept);  // all but those of the latest `kept` groups
void take_sums(float (&acc)[64]);

}  // namespace emulator
