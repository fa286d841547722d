"""Bugs to plant in the kernels, each one change of one source's text; mutate.py does it."""

from dataclasses import dataclass

DECODE, PREFILL, ATTENTION, MERGE = "paged_decode.cu", "paged_prefill.cu", "attention.cuh", "attention_merge.cu"
DECODE_UNIT, MLA = "decode.cuh", "attn_mla.cu"
KV_WRITE, NORM_ACT = "kv_write.cu", "norm_act.cu"
UPDATE_ROWS, BLOCK_COPY = "update_rows.cu", "block_copy.cu"
GEMM_W4A16 = "gemm_w4a16.cu"


@dataclass(frozen=True)
class Mutant:
    name: str
    source: str
    before: str
    """Is in the source once; nothing at all is the control."""
    after: str


MUTANTS = (
    Mutant("control: no change", ATTENTION, "", ""),
    # copies and barriers of decode
    Mutant("decode: the query has no group of its own", DECODE_UNIT, "commit_copies();  // the first", "// the first"),
    Mutant("decode: no barrier before the query is read", DECODE, "__syncthreads();  // the query", "// the query"),
    Mutant("decode: no barrier after a wait", DECODE, "__syncwarp();  // what the", "// what the"),
    Mutant(
        "decode: waits for one tile too few",
        DECODE,
        "copy_next_tile();\n    wait_for_copies<NUM_STAGES - 1>",
        "copy_next_tile();\n    wait_for_copies<NUM_STAGES>",
    ),
    Mutant("decode: copies into the tile in use", DECODE, "next_stage + 1 == NUM_STAGES ? 0", "next_stage < 9 ? 0"),
    Mutant("decode: merges before all are done", DECODE, "__syncthreads();  // every warp is done", "// every"),
    Mutant("decode: reads the merge before it is written", DECODE, "  __syncthreads();\n\n", "\n"),
    Mutant("decode: the next unit starts too early", DECODE, "__syncthreads();  // and now", "// and now"),
    Mutant(
        "decode: the merge's memory is a row short",
        DECODE,
        "all_sums + NUM_WARPS * QUERY_ROWS * HEAD_DIM",
        "all_sums + (NUM_WARPS * QUERY_ROWS - 1) * HEAD_DIM",
    ),
    Mutant("decode: too little shared memory", DECODE, "NUM_STAGES * NUM_WARPS * 2", "NUM_STAGES * NUM_WARPS * 1"),
    # the arithmetic of decode
    Mutant("decode: no mask at the end of the keys", DECODE, "token >= unit.kv_end", "token > unit.kv_end"),
    Mutant(
        "decode: a window one key too wide",
        DECODE_UNIT,
        "call.seq_len[entry] - call.window",
        "call.seq_len[entry] - 1 - call.window",
    ),
    Mutant(
        "decode: all heads of a wide group are the first",
        DECODE_UNIT,
        "kv_head * group + first_of_group",
        "kv_head * group",
    ),
    Mutant("decode: a part goes to the token's row", DECODE, "is_part ? unit.slot : unit.token", "unit.token"),
    Mutant(
        "decode: the sink is in each part", DECODE, "is_part ? -INFINITY : sink_of(call, head)", "sink_of(call, head)"
    ),
    Mutant("decode: an entry is taken for a token", DECODE_UNIT, "call.query_start[entry]", "entry"),
    Mutant(
        "decode: a window before all keys is not a number",
        DECODE,
        "highest == -INFINITY ? 0.f : highest;  //",
        "highest;  //",
    ),
    # copies and barriers of prefill
    Mutant("prefill: the first barrier is missing", PREFILL, "__syncthreads();       // its keys", "// its keys"),
    Mutant("prefill: the second barrier is missing", PREFILL, "__syncthreads();       // its values", "// its values"),
    Mutant(
        "prefill: does not wait for keys",
        PREFILL,
        "wait_for_copies<1>();  // all but this",
        "wait_for_copies<2>();  //",
    ),
    Mutant(
        "prefill: does not wait for values",
        PREFILL,
        "wait_for_copies<1>();  // all but the",
        "wait_for_copies<2>();  //",
    ),
    Mutant("prefill: the next unit starts too early", PREFILL, "__syncthreads();  // every warp is done", "// every"),
    Mutant("prefill: result rows are read before they are written", PREFILL, "  __syncwarp();\n", ""),
    Mutant(
        "prefill: values go to the stage in use", PREFILL, "copy_tile(values, stage ^ 1,", "copy_tile(values, stage,"
    ),
    Mutant("prefill: one look-up too far", PREFILL, "first_key + 2 * KV_TILE", "first_key + 3 * KV_TILE"),
    # the arithmetic of prefill
    Mutant("prefill: sees the next token", PREFILL, "min(unit.kv_end, position + 1)", "min(unit.kv_end, position + 2)"),
    Mutant("prefill: does not see itself", PREFILL, "min(unit.kv_end, position + 1)", "min(unit.kv_end, position)"),
    Mutant(
        "prefill: no mask where one is needed", PREFILL, "last_key <= first_position", "first_key <= first_position"
    ),
    Mutant("prefill: no mask for the window", PREFILL, "first_key > last_position - window", "true"),
    Mutant(
        "prefill: the window starts at the last row",
        PREFILL,
        "first_position - window + 1);",
        "last_position - window + 1);",
    ),
    Mutant("prefill: a tile starts within a token", PREFILL, "(first_row % group + row) / group", "row / group"),
    Mutant("prefill: one row too many", PREFILL, "first_row + row < num_rows", "first_row + row <= num_rows"),
    Mutant("prefill: heads of the wrong group", PREFILL, "kv_head * group + (first_row", "(first_row"),
    Mutant("prefill: parts of a request overlap", PREFILL, "unit.slot + token - unit.first_token", "unit.slot"),
    Mutant(
        "prefill: the sink is in each part", PREFILL, "is_part ? -INFINITY : sink_of(call, head)", "sink_of(call, head)"
    ),
    # what both share
    Mutant("both: the row of the table is the entry", ATTENTION, "call.row[entry]", "entry"),
    Mutant(
        "both: a distance of 32 bits",
        ATTENTION,
        "page_shift)) * block_bytes",
        "page_shift)) * static_cast<int>(block_bytes)",
    ),
    Mutant("both: half a page", ATTENTION, "((1 << page_shift) - 1)", "((1 << page_shift >> 1) - 1)"),
    Mutant("both: copies tokens that are not there", ATTENTION, "if (token >= end) return -1;", ""),
    Mutant("both: -infinity minus -infinity", ATTENTION, "new_highest == -INFINITY ? 0.f : new_highest", "new_highest"),
    Mutant(
        "both: half of a row's maximum",
        ATTENTION,
        "return max(value, __shfl_xor_sync(ALL_LANES, value, 2))",
        "return value",
    ),
    Mutant(
        "both: half of a row's sum", ATTENTION, "return value + __shfl_xor_sync(ALL_LANES, value, 2)", "return value"
    ),
    Mutant("both: sums are not rescaled", ATTENTION, "sums.columns[column][2 * half + 1] *= rescale;", ""),
    Mutant(
        "both: totals are not rescaled", ATTENTION, "total[half] * rescale + tile_total", "total[half] + tile_total"
    ),
    Mutant(
        "both: probabilities in the wrong registers",
        ATTENTION,
        "a[1] = Product::pack(first[2], first[3]);\n  a[2]",
        "a[2] = Product::pack(first[2], first[3]);\n  a[1]",
    ),
    Mutant("both: values not transposed", ATTENTION, "load_matrices_transposed(b,", "load_matrices(b,"),
    Mutant("both: bank conflicts", ATTENTION, "(row_bytes / CHUNK | 1)", "(row_bytes / CHUNK)"),
    Mutant("both: the soft cap in the wrong units", ATTENTION, "cap = LOG2_E * soft_cap", "cap = soft_cap"),
    Mutant("both: the sink in the wrong units", ATTENTION, "call.sinks[head] * LOG2_E", "call.sinks[head]"),
    Mutant("both: e4m3 keys without their scale", ATTENTION, "CACHE_IS_FP8 ? call.key_scales[kv_head] : 1.f", "1.f"),
    Mutant(
        "both: e4m3 values without their scale", ATTENTION, "CACHE_IS_FP8 ? call.value_scales[kv_head] : 1.f", "1.f"
    ),
    Mutant("both: e4m3 dimensions of values in order", ATTENTION, "0x4420", "0x4410"),
    Mutant("both: e4m3 dimensions of queries in order", ATTENTION, "lane % 4 * 4) * 2", "lane % 4 * 2) * 2"),
    Mutant("merge: parts side by side", MERGE, "first_slot + part * slot_stride", "first_slot + part"),
    Mutant("merge: parts weigh the same", MERGE, "exp2_approximate(call.partial_log_sums[row] - base)", "1.f"),
    Mutant(
        "merge: no sink",
        MERGE,
        "end_softmax(highest, total, sink_of(call, head))",
        "end_softmax(highest, total, -INFINITY)",
    ),
    Mutant("merge: a part without keys", MERGE, "highest == -INFINITY ? 0.f : highest", "0.f"),
    # attn_mla
    Mutant("mla: no barrier before the tile is read", MLA, "__syncthreads();  // the tile is there", "//"),
    Mutant("mla: no barrier before the maxima are read", MLA, "__syncthreads();  // every warp has its maxima", ""),
    Mutant("mla: no barrier before the probabilities", MLA, "__syncthreads();  // the probabilities are whole", ""),
    Mutant("mla: the next tile comes too early", MLA, "__syncthreads();  // every warp is done with tile", "//"),
    Mutant("mla: no barrier before the totals", MLA, "__syncthreads();  // every warp has its totals", ""),
    Mutant("mla: the next unit starts too early", MLA, "__syncthreads();  // every warp has read", "//"),
    Mutant("mla: waits for one tile too few", MLA, "wait_for_copies<NUM_STAGES - 1>", "wait_for_copies<NUM_STAGES>"),
    Mutant("mla: copies into the tile in use", MLA, "next_stage + 1 == NUM_STAGES ? 0", "next_stage < 9 ? 0"),
    Mutant("mla: no mask at the end of the keys", MLA, "i % 2 >= unit.kv_end", "i % 2 > unit.kv_end"),
    Mutant("mla: a softmax of each warp", MLA, "memory.highest[other][row]", "memory.highest[warp][row]"),
    Mutant("mla: the total of one warp", MLA, "other < NUM_WARPS; other++) total", "other < 1; other++) total"),
    Mutant("mla: sums are not rescaled", MLA, "sums.columns[column][2 * half + 1] *= rescale;", ""),
    Mutant("mla: half of the dimensions of a score", MLA, "Product::mma(scores[0], a, b[2], b[3]);", ""),
    Mutant("mla: every warp has the first values", MLA, "+ warp * WARP_VALUES * 2 +", "+"),
    Mutant("mla: values of the first tokens twice", MLA, "values + step * 16 * CACHE_PITCH", "values"),
    Mutant("mla: tokens of one warp", MLA, "(warp * WARP_TOKENS + lane % 4 * 2) * 2", "(lane % 4 * 2) * 2"),
    Mutant("mla: a part goes to the token's row", MLA, "is_part ? unit.slot : unit.token", "unit.token"),
    Mutant("mla: the sink is in each part", MLA, "is_part ? -INFINITY : sink_of(call, head)", "sink_of(call, head)"),
    Mutant("mla: heads that are not there are written", MLA, "if (row >= unit.num_rows) continue;", ""),
    Mutant("mla: bank conflicts of probabilities", MLA, "tile_pitch(TILE_TOKENS * 2)", "TILE_TOKENS * 2"),
    # kv_write
    Mutant(
        "kv_write: tokens behind the count too", KV_WRITE, "*call.num_tokens * heads", "(*call.num_tokens + 1) * heads"
    ),
    Mutant("kv_write: negative slots are taken", KV_WRITE, "if (slot < 0) continue;", ""),
    Mutant(
        "kv_write: a negative slot leaves the query", KV_WRITE, "is_query ? 0 : call.slot_mapping", "call.slot_mapping"
    ),
    Mutant("kv_write: values are rotated too", KV_WRITE, "if (!is_value) {", "if (true) {"),
    Mutant(
        "kv_write: keys are normed as queries",
        KV_WRITE,
        "is_query ? call.query_norm : call.key_norm",
        "call.query_norm",
    ),
    Mutant("kv_write: the norm sums half a warp", KV_WRITE, "bit = WARP_SIZE / 2;", "bit = WARP_SIZE / 4;"),
    Mutant("kv_write: the norm's mean is a sum", KV_WRITE, "squares / HEAD_DIM + eps", "squares + eps"),
    Mutant("kv_write: rotated the other way", KV_WRITE, "old_x * cosine - y * sine", "old_x * cosine + y * sine"),
    Mutant(
        "kv_write: a rotated number is rotated again", KV_WRITE, "y * cosine + old_x * sine", "y * cosine + x * sine"
    ),
    Mutant(
        "kv_write: sines of another pair", KV_WRITE, "angles + rotary_dim / 2 + index * 2", "angles + rotary_dim / 2"
    ),
    Mutant("kv_write: the whole head is rotated", KV_WRITE, "if (index * 4 >= rotary_dim) return;", ""),
    Mutant("kv_write: halves of the head", KV_WRITE, "quad * 2 + rotary_dim / 2 :", "quad * 2 + HEAD_DIM / 2 :"),
    Mutant("kv_write: interleaved as halves", KV_WRITE, "if (interleaved) {", "if (false) {"),
    Mutant(
        "kv_write: a head's second quad is lost",
        KV_WRITE,
        "i * WARP_SIZE + threadIdx.x % WARP_SIZE",
        "threadIdx.x % WARP_SIZE",
    ),
    Mutant(
        "kv_write: rows without their stride", KV_WRITE, "token * call.qkv_stride", "token * heads_of_token * HEAD_DIM"
    ),
    Mutant("kv_write: half a page", KV_WRITE, "((1 << call.page_shift) - 1)", "((1 << call.page_shift >> 1) - 1)"),
    Mutant(
        "kv_write: a distance of 32 bits",
        KV_WRITE,
        "block * call.block_stride +",
        "static_cast<int>(block * call.block_stride) +",
    ),
    Mutant("kv_write: heads of a token side by side", KV_WRITE, "kv_head * call.head_stride", "kv_head * HEAD_DIM"),
    Mutant(
        "kv_write: values scaled as keys", KV_WRITE, "is_value ? call.value_scales : call.key_scales", "call.key_scales"
    ),
    Mutant("kv_write: multiplied by the scale", KV_WRITE, "1.f / scales[kv_head]", "scales[kv_head]"),
    # norm_act
    Mutant("norm_act: a sum is read before it is whole", NORM_ACT, "= value;\n  __syncthreads();", "= value;"),
    Mutant(
        "norm_act: a sum is written while the last is read", NORM_ACT, "__syncthreads();  // every thread", "// every"
    ),
    Mutant("norm_act: one warp is not in the sum", NORM_ACT, "int warp = 1;", "int warp = 2;"),
    Mutant("norm_act: half a warp is in the sum", NORM_ACT, "bit = WARP_SIZE / 2;", "bit = WARP_SIZE / 4;"),
    Mutant("norm_act: the mean of a whole step", NORM_ACT, "/ call.hidden_size + call.eps", "/ STEP + call.eps"),
    Mutant("norm_act: a chunk too many", NORM_ACT, "if (column < size) function", "if (column <= size) function"),
    Mutant("norm_act: long rows are cut", NORM_ACT, "column < size; column += STEP", "column < 0; column += STEP"),
    Mutant(
        "norm_act: the rest of a long row starts late",
        NORM_ACT,
        "column = NUM_KEPT * STEP +",
        "column = NUM_KEPT * STEP + CHUNK +",
    ),
    Mutant(
        "norm_act: the residual is added twice in long rows",
        NORM_ACT,
        "if (again) return load",
        "if (false) return load",
    ),
    Mutant("norm_act: the first residual is added to", NORM_ACT, "if (!call.initialise) {", "if (true) {"),
    Mutant("norm_act: the residual is not kept", NORM_ACT, "store<Float32>(residual + column, values);", ""),
    Mutant("norm_act: no offset of weights", NORM_ACT, "(weights[i] + call.weight_offset)", "weights[i]"),
    Mutant(
        "norm_act: rows of the output as wide as the input's",
        NORM_ACT,
        "(call.out) + row * call.out_stride",
        "(call.out) + row * size",
    ),
    Mutant("norm_act: the largest without its sign", NORM_ACT, "fabsf(values[i])", "values[i]"),
    Mutant("norm_act: the scale of a thread", NORM_ACT, "largest = largest_of_block(largest);", ""),
    Mutant("norm_act: a row of zeros is divided by zero", NORM_ACT, "largest > SMALLEST ?", "true ?"),
    Mutant("norm_act: long quantised rows are made once", NORM_ACT, "if (!kept) compute(values, column, false);", ""),
    Mutant(
        "norm_act: the wrong half is activated",
        NORM_ACT,
        "load<Element>(values, gate);\n    load<Element>(factors, gate + size)",
        "load<Element>(values, gate + size);\n    load<Element>(factors, gate)",
    ),
    Mutant("norm_act: GELU without its cube", NORM_ACT, "0.0713548162f * x * x", "0.0713548162f * x"),
    Mutant("norm_act: an error function without the root of two", NORM_ACT, "x * 0.707106781f", "x"),
    Mutant("norm_act: a row is one step", NORM_ACT, "(size + STEP - 1) / STEP", "1"),
    # update_rows
    Mutant("update_rows: a delta behind the count", UPDATE_ROWS, "i < num_deltas", "i <= num_deltas"),
    Mutant(
        "update_rows: deltas of the first turn only",
        UPDATE_ROWS,
        "i < num_deltas; i += num_threads",
        "i < num_deltas; i = num_deltas",
    ),
    Mutant(
        "update_rows: the counts are taken for each other",
        UPDATE_ROWS,
        "counts[NUM_TABLE_DELTAS]",
        "counts[NUM_TOKENS]",
    ),
    Mutant(
        "update_rows: rows and columns of the table", UPDATE_ROWS, "call.delta_row[i]) *", "call.delta_column[i]) *"
    ),
    Mutant("update_rows: a row too far", UPDATE_ROWS, "last_token[-1 - id]", "last_token[-id]"),
    Mutant("update_rows: padding is not written", UPDATE_ROWS, "i < call.num_padded_tokens", "i < num_tokens"),
    Mutant(
        "update_rows: padding is resolved", UPDATE_ROWS, "i < num_tokens ? call.input_ids[i] : 0", "call.input_ids[i]"
    ),
    Mutant("update_rows: token 0 is a row", UPDATE_ROWS, "id >= 0 ?", "id > 0 ?"),
    # block_copy
    Mutant(
        "block_copy: a pair behind the count",
        BLOCK_COPY,
        "*call.count * tiles_of_pair",
        "(*call.count + 1) * tiles_of_pair",
    ),
    Mutant(
        "block_copy: planes of the target as of the source",
        BLOCK_COPY,
        "plane * call.target_plane_stride",
        "plane * call.source_plane_stride",
    ),
    Mutant(
        "block_copy: a distance of 32 bits",
        BLOCK_COPY,
        "plane * call.source_plane_stride",
        "plane * static_cast<int>(call.source_plane_stride)",
    ),
    Mutant(
        "block_copy: a block of whole tiles", BLOCK_COPY, "if (place < call.block_bytes) *reinterpret", "*reinterpret"
    ),
    Mutant(
        "block_copy: the last tile is left out",
        BLOCK_COPY,
        "(call.block_bytes + TILE_BYTES - 1) / TILE_BYTES",
        "max<int64>(1, call.block_bytes / TILE_BYTES)",
    ),
    Mutant(
        "block_copy: tiles of a block are the first",
        BLOCK_COPY,
        "(unit % num_tiles) * TILE_BYTES",
        "(unit % num_tiles) * 0",
    ),
    Mutant(
        "block_copy: the planes of a pair in turns of tiles",
        BLOCK_COPY,
        "unit % tiles_of_pair / num_tiles",
        "unit % call.num_planes",
    ),
    Mutant("block_copy: source and target are one", BLOCK_COPY, "call.target_block[pair]", "call.source_block[pair]"),
    # gemm_w4a16
    Mutant(
        "gemm_w4a16: waits for one tile too few",
        GEMM_W4A16,
        "wait_for_copies<NUM_STAGES - 2>",
        "wait_for_copies<NUM_STAGES - 1>",
    ),
    Mutant("gemm_w4a16: no barrier before a tile", GEMM_W4A16, "__syncthreads();  // this tile", "// this tile"),
    Mutant(
        "gemm_w4a16: copies into the tile in use",
        GEMM_W4A16,
        "ahead < NUM_STAGES - 1; ahead++",
        "ahead < NUM_STAGES; ahead++",
    ),
    Mutant(
        "gemm_w4a16: the next unit starts too early",
        GEMM_W4A16,
        "__syncthreads();  // every warp is done with the unit",
        "// every",
    ),
    Mutant(
        "gemm_w4a16: the arrival is kept where tiles are still read",
        GEMM_W4A16,
        "__syncthreads();  // every thread's",
        "// every",
    ),
    Mutant(
        "gemm_w4a16: rows behind the last",
        GEMM_W4A16,
        "first + row < num_rows);",
        "first + row <= num_rows);",
    ),
    Mutant(
        "gemm_w4a16: outputs behind the last",
        GEMM_W4A16,
        "first_output < call.num_outputs;",
        "first_output <= call.num_outputs;",
    ),
    Mutant("gemm_w4a16: bank conflicts", GEMM_W4A16, "X_PITCH = (X_CHUNKS + 1) * CHUNK", "X_PITCH = X_CHUNKS * CHUNK"),
    Mutant("gemm_w4a16: weights of the first step only", GEMM_W4A16, "weights + step * WARP_SIZE * 4", "weights"),
    Mutant(
        "gemm_w4a16: the steps of a tile are one", GEMM_W4A16, "(step * 4 + lane / 8) * CHUNK", "(lane / 8) * CHUNK"
    ),
    Mutant("gemm_w4a16: zeros of the first outputs", GEMM_W4A16, "minus_zero[2 * tile + i % 2]", "minus_zero[i % 2]"),
    Mutant("gemm_w4a16: scales of the lower rows", GEMM_W4A16, "scale[2 * tile + i / 2]", "scale[2 * tile]"),
    Mutant("gemm_w4a16: a zero of 16 is 0", GEMM_W4A16, "word[i] & 31)", "word[i] & 15)"),
    Mutant("gemm_w4a16: a scale with its zero", GEMM_W4A16, "word[i] & ~31u", "word[i] << 1"),
    Mutant("gemm_w4a16: a group is not ended", GEMM_W4A16, "        end_group(group, sums, totals);\n", ""),
    Mutant("gemm_w4a16: the last group is lost", GEMM_W4A16, "  end_group(group, sums, totals);\n  wait", "  wait"),
    Mutant(
        "gemm_w4a16: a split starts with a whole group",
        GEMM_W4A16,
        "(next + 1) * call.group_size - input",
        "call.group_size",
    ),
    Mutant(
        "gemm_w4a16: splits leave a tile out",
        GEMM_W4A16,
        "(split + 1) * num_tiles / call.num_splits",
        "(split + 1) * (num_tiles / call.num_splits)",
    ),
    Mutant("gemm_w4a16: the last but one adds", GEMM_W4A16, "!= call.num_splits - 1", "!= call.num_splits - 2"),
    Mutant("gemm_w4a16: the counter stays", GEMM_W4A16, "if (threadIdx.x == 0) call.num_arrived[unit.tile] = 0;", ""),
    Mutant(
        "gemm_w4a16: arrival is read before it is known",
        GEMM_W4A16,
        "  __syncthreads();\n  if (*arrived_before",
        "  if (*arrived_before",
    ),
    Mutant(
        "gemm_w4a16: the last block's sums count twice",
        GEMM_W4A16,
        "totals[quad / TOKEN_TILES][quad % TOKEN_TILES][i] = 0.f;",
        ";",
    ),
    Mutant(
        "gemm_w4a16: sums are added in the order of arrival",
        GEMM_W4A16,
        "partial[place(split, quad)]",
        "partial[place((split + unit.split) % call.num_splits, quad)]",
    ),
    Mutant("gemm_w4a16: no bias", GEMM_W4A16, "sums[0] + more, sums[1] + more", "sums[0], sums[1]"),
    Mutant(
        "gemm_w4a16: the second token of a pair", GEMM_W4A16, "if (row + 1 < call.num_rows)", "if (row < call.num_rows)"
    ),
    Mutant("gemm_w4a16: the same inputs in every tile", GEMM_W4A16, "x += TILE_INPUTS;", ""),
    Mutant("gemm_w4a16: the same weights in every tile", GEMM_W4A16, "weights += 2 * WARP_SIZE * 4;", ""),
    Mutant("gemm_w4a16: the same rows at once", GEMM_W4A16, "x + first / ROWS_AT_ONCE * stride_at_once", "x"),
)
