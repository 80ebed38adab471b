// The table of one instruction set: this file is compiled once for each, with PACT_ISA naming it.
#include "kernels.h"

#include "attention_row.h"
#include "nearest.h"
#include "pairs.h"
#include "row_pass.h"
#include "rows.h"

#define PACT_STRING(x) #x
#define PACT_NAME(x) PACT_STRING(x)

namespace pact::PACT_ISA {

extern const Kernels table;
const Kernels table = {
    .name = PACT_NAME(PACT_ISA),
    .panel = kPanel,
    .lanes = kLanes,
    .pack_panel = pack_panel,
    .density_tile = density_tile,
    .max_distance_tile = max_distance_tile,
    .nearest_before_tile = nearest_before_tile,
    .nearest = nearest,
    .load_row = load_row,
    .pair_distances = pair_distances,
    .farthest_step = farthest_step,
    .dpp_step = dpp_step,
    .add_rows = add_rows,
    .head_logits = head_logits,
    .row_norm = row_norm,
    .mean_of_rows = mean_of_rows,
    .attention_logits = attention_logits,
    .attention_exponentials = attention_exponentials,
    .attention_columns = attention_columns,
    .attention_row_logits = attention_row_logits,
    .attention_row_exponentials = attention_row_exponentials,
    .attention_row_columns = attention_row_columns,
    .all_finite = all_finite,
};

}  // namespace pact::PACT_ISA
