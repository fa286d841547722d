"""Bugs to plant in sampling, for mutate.py."""

from mutants import Mutant

KEYS, SEARCH, PENALTIES = "keys.cuh", "row_search.cuh", "penalties.cuh"
SAMPLING, COUNT = "sampling.cu", "count_tokens.cu"

SAMPLING_MUTANTS = (
    # barriers
    Mutant("search: no barrier before the bests are read", SEARCH, "__syncthreads();  // every warp has its best", ""),
    Mutant("search: no barrier after the bests", SEARCH, "__syncthreads();  // every thread has read the bests", ""),
    Mutant("search: no barrier before the totals", SEARCH, "__syncthreads();  // every warp has its total", ""),
    Mutant("search: no barrier after the totals", SEARCH, "__syncthreads();  // every thread has read the totals", ""),
    Mutant("search: no barrier before the parts", SEARCH, "__syncthreads();  // every part has its sum", ""),
    Mutant("search: no barrier after the parts", SEARCH, "__syncthreads();  // every thread has read the parts", ""),
    Mutant("search: bins are filled before they are empty", SEARCH, "__syncthreads();  // the bins are empty", "//"),
    Mutant("search: bins are read before they are full", SEARCH, "__syncthreads();  // all is in the bins", ""),
    Mutant("search: no barrier before warps are summed", SEARCH, "__syncthreads();  // every warp has its sum", ""),
    Mutant("search: a digit is read before it is found", SEARCH, "__syncthreads();  // the digit is found", ""),
    # searching
    Mutant("search: NaN is the largest number", KEYS, "number == number ? number + 0.f : -INFINITY", "number"),
    Mutant("search: negative numbers in reverse", KEYS, "? ~bits : bits | 0x80000000u", "? bits ^ 0x80000000u : ~0u"),
    Mutant("search: the last of equal tokens is best", KEYS, "32 | (0xffffffffu - index)", "32 | index"),
    Mutant("search: halves without a carry", SEARCH, " + (sum < addend)", ""),
    Mutant("search: the upper half is lost", SEARCH, "if (carried)", "if (false)"),
    Mutant("search: the last tokens belong to no warp", SEARCH, "(end - begin + NUM_THREADS - 1)", "(end - begin)"),
    Mutant("search: the last digit is not looked at", SEARCH, "NUM_DIGITS = 3", "NUM_DIGITS = 2"),
    Mutant("search: other digits are counted too", SEARCH, "if ((key & known) == found.key)", ""),
    Mutant(
        "search: a bin that only reaches the goal",
        SEARCH,
        "memory.amount(bin) <= goal; bin--",
        "memory.amount(bin) < goal; bin--",
    ),
    Mutant(
        "search: a part that only reaches the goal", SEARCH, "memory.parts[part] <= goal", "memory.parts[part] < goal"
    ),
    Mutant("search: the goal is not lowered by parts", SEARCH, "goal -= memory.parts[part];", ";"),
    Mutant("search: looks within a part only once", SEARCH, "is_row || range.end - range.begin > WARP_SIZE", "is_row"),
    Mutant("search: the bound of the k-th is above it", SEARCH, "key >= least", "key > least"),
    Mutant("search: weights in the wrong place", SEARCH, "min(shift, 63)", "min(shift + 1, 63)"),
    # choosing
    Mutant("sampling: tokens behind the row", SAMPLING, "tokens{0, call.vocab_size}", "tokens{0, call.vocab_size + 1}"),
    Mutant("sampling: rows side by side", SAMPLING, "sample * call.logits_stride", "sample * call.vocab_size"),
    Mutant("sampling: nine rounds of Philox", SAMPLING, "ROUNDS = 10", "ROUNDS = 9"),
    Mutant("sampling: the choice is not drawn by", SAMPLING, "c = choice, d = 0", "c = 0, d = 0"),
    Mutant("sampling: half of the seed", SAMPLING, "static_cast<uint32>(seed >> 32)", "0"),
    Mutant("sampling: min-p before the temperature", SAMPLING, "logf(min(min_p, 1.f)) / factor", "logf(min_p)"),
    Mutant("sampling: top-k undoes min-p", SAMPLING, "cut.key = max(cut.key, kth.key)", "cut.key = kth.key"),
    Mutant("sampling: top-p keeps all equals", SAMPLING, "other_token <= token", "other_token <= 1 << 30"),
    Mutant("sampling: top-p keeps one too many", SAMPLING, "whole == 0 ? whole : whole - 1", "true ? whole : whole"),
    Mutant("sampling: top-p of the largest tokens only", SAMPLING, "near > goal ? NEAR : 1", "NEAR"),
    Mutant("sampling: top-p of all that there was", SAMPLING, "cut.keeps(token, key) ? to_mass", "true ? to_mass"),
    Mutant("sampling: no temperature", SAMPLING, "- largest) * factor", "- largest)"),
    Mutant("sampling: its token is not counted", SAMPLING, "row.penalties.count(token);", ";"),
    # log-probabilities
    Mutant("sampling: ranks below equals", SAMPLING, "own += key > chosen_key", "own += key >= chosen_key"),
    Mutant(
        "sampling: log-probabilities after penalties",
        SAMPLING,
        "row.raw(), token",
        "row, token",
    ),
    Mutant("sampling: the list's last equals", SAMPLING, "count - 1 - kth.above", "count - 1"),
    Mutant(
        "sampling: the list is not in order",
        SAMPLING,
        "place += memory.top[other] > memory.top[index]",
        "place += other > index",
    ),
    Mutant("sampling: the list is read before it is whole", SAMPLING, "__syncthreads();  // the list is whole", ""),
    Mutant("sampling: the list starts behind the last one", SAMPLING, "__syncthreads();  // the list is empty", ""),
    # penalties
    Mutant(
        "penalties: the sample is the row",
        PENALTIES,
        "static_cast<int64>(row) * vocab_size",
        "static_cast<int64>(sample) * vocab_size",
    ),
    Mutant("penalties: a prompt is not repeated", PENALTIES, "count || prompt[token / 32] >> token % 32 & 1", "count"),
    Mutant("penalties: a prompt of another row", PENALTIES, "row * prompt_words(vocab_size)", "0"),
    Mutant("penalties: negative logits become probable", PENALTIES, ": logit * repetition;", ": logit / repetition;"),
    Mutant("penalties: once is as often", PENALTIES, "__fmul_rn(frequency, count)", "frequency"),
    Mutant("penalties: prompts are present", PENALTIES, "return count ? logit", "return true ? logit"),
    Mutant("count: adds to what was there", COUNT, "if (call.starts[item])", "if (false)"),
    Mutant("count: counts before the row is empty", COUNT, "__syncthreads();  // the row is empty", ""),
    Mutant("count: prompts are output", COUNT, "index - first < call.num_prompt[item]", "false"),
    Mutant("count: the last token is missing", COUNT, "index < end; index", "index < end - 1; index"),
)
