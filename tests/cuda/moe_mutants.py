"""Bugs to plant in mixtures of experts, for mutate.py."""

from mutants import Mutant

ROUTING, PRODUCT = "moe_routing.cu", "moe_product.cu"

MOE_MUTANTS = (
    # routing
    Mutant("moe: more experts than there are", ROUTING, "key[i] = 0;\n      else", "key[i] = ~0u;\n      else"),
    Mutant("moe: the bias is in the weight", ROUTING, "score = scores.score[i];", "score = number_of(scores.key[i]);"),
    Mutant("moe: scores do not sum to one", ROUTING, "score[i] /= sum;", ";"),
    Mutant("moe: sigmoid of the other sign", ROUTING, "expf(-score[i])", "expf(score[i])"),
    Mutant("moe: weights are not renormalised", ROUTING, "if (call.renormalise && sum > 0)", "if (false)"),
    Mutant("moe: weights are not scaled", ROUTING, "weight * call.scale", "weight"),
    Mutant("moe: an expert is chosen twice", ROUTING, "scores.key[i] = 0;", ";"),
    Mutant("moe: weights of the wrong expert", ROUTING, "score, expert % WARP_SIZE", "score, place"),
    Mutant("moe: equal groups, the last first", ROUTING, "group < lane", "group > lane"),
    Mutant("moe: groups by their best alone", ROUTING, "call.bias && second ?", "false ?"),
    Mutant("moe: a group's second is its first", ROUTING, "min(first, candidate)", "first"),
    Mutant("moe: groups stay open", ROUTING, "if (call.top_groups < call.num_groups)", "if (false)"),
    Mutant("moe: rows side by side", ROUTING, "token * call.logits_stride", "token * call.num_experts"),
    # sorting
    Mutant("moe: counts before the counts are zero", ROUTING, "__syncthreads();  // the counts are zero", ""),
    Mutant("moe: sorts before all are counted", ROUTING, "__syncthreads();  // all are counted", ""),
    Mutant("moe: a tile too few", ROUTING, "counts[expert] + TILE_ROWS - 1", "counts[expert]"),
    Mutant("moe: pairs of a vote in one place", ROUTING, "((1u << lane) - 1)", "0"),
    Mutant("moe: rows without a pair are not marked", ROUTING, "pairs[row] = -1;", ";"),
    Mutant(
        "moe: only the first tile has its expert", ROUTING, "tile = lane; tile < num_tiles", "tile = lane; tile < 1"
    ),
    # the sum
    Mutant(
        "moe: absent experts are added",
        ROUTING,
        "expert >= call.num_experts) continue;",
        "expert >= call.num_experts) ;",
    ),
    Mutant("moe: pairs are not weighted", ROUTING, "weight * values[i]", "values[i]"),
    Mutant("moe: the shared expert is forgotten", ROUTING, "if (shared) load", "if (false) load"),
    Mutant(
        "moe: rows of the sum side by side", ROUTING, "out + token * call.out_stride", "out + token * call.hidden_size"
    ),
    # the product
    Mutant("moe: copies before the pairs are known", PRODUCT, "__syncthreads();  // the pairs are known", ""),
    Mutant("moe: multiplies before all copies have landed", PRODUCT, "__syncthreads();  // all copies", "//"),
    Mutant("moe: the next unit starts too early", PRODUCT, "__syncthreads();  // every warp is done", "//"),
    Mutant(
        "moe: waits for one step too few", PRODUCT, "wait_for_copies<NUM_STAGES - 2>", "wait_for_copies<NUM_STAGES - 1>"
    ),
    Mutant(
        "moe: empty groups are not closed",
        PRODUCT,
        "step * STEP);\n      commit_copies();",
        "step * STEP), commit_copies();",
    ),
    Mutant("moe: one expert for all", PRODUCT, "static_cast<int64>(unit.expert) *", "static_cast<int64>(0) *"),
    Mutant("moe: inputs behind a row", PRODUCT, "first < call.in_features", "first < call.in_features + 8"),
    Mutant("moe: outputs behind a row", PRODUCT, "if (column < call.out_features)", ""),
    Mutant("moe: rows without a pair are copied", PRODUCT, "valid &= pair >= 0;", ""),
    Mutant("moe: rows without a pair are written", PRODUCT, "if (pair < 0) continue;", ""),
    Mutant("moe: a pair is taken for a token", PRODUCT, "pair / call.pairs_per_input", "pair"),
    Mutant("moe: tiles for columns", PRODUCT, "tile(unit % num_tiles)", "tile(0)"),
    Mutant("moe: the second half of a warp's columns", PRODUCT, "b[i][2], b[i][3]", "b[i][0], b[i][1]"),
    Mutant("moe: matrices transposed", PRODUCT, "load_matrices(a, stage", "load_matrices_transposed(a, stage"),
    Mutant("moe: bank conflicts", PRODUCT, "(STEP_CHUNKS + 1) * CHUNK", "STEP_CHUNKS * CHUNK"),
    Mutant("moe: too little shared memory", PRODUCT, "STAGE_BYTES + PAIRS_BYTES", "STAGE_BYTES"),
)
