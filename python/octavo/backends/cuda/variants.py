"""Which kernels octavo has, with which macros, and for which GPUs.

A kernel is compiled for the shapes and types of a model, which are macros: what is known then costs no registers.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

KERNELS = Path(__file__).parent / "sources"
"""What cuda/ at the top of the repository is a link to: so the wheel has the sources."""

CUBINS = Path.home() / ".cache" / "octavo" / "cubins"
"""What was compiled on this machine."""

Element = Literal["Float32", "Bfloat16", "Float16", "Float8", "Int8"]
"""As cuda/elements.cuh names them."""

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a", "sm_100f", "sm_120")
"""sm_80 runs on 8.6 too; sm_100f on the whole family of Blackwell's data-centre GPUs."""


def architecture_of(major: int, minor: int) -> str:
    """What kernels are compiled for, to run on a GPU of this compute capability. ValueError if it is older than 8.0."""
    if (major, minor) < (8, 0):
        raise ValueError(f"compute capability {major}.{minor} is older than 8.0")
    if major == 8:
        return "sm_89" if minor == 9 else "sm_80"
    return {9: "sm_90a", 10: "sm_100f", 12: "sm_120"}.get(major, f"sm_{major}{minor}")


HEAD_DIMS = (64, 80, 96, 128, 256)

LATENT_DIM, LATENT_VALUE_DIM = 576, 512
"""Of MLA: a cached vector, which is a token's key, and what of it is the value."""

ACTIVATION_TYPES: tuple[Element, ...] = ("Bfloat16", "Float16")

QUANTISED_TYPES: tuple[Element, ...] = ("Float8", "Int8")

CACHE_TYPES: tuple[tuple[Element, Element], ...] = (
    ("Bfloat16", "Bfloat16"),
    ("Float16", "Float16"),
    ("Bfloat16", "Float8"),
    ("Float16", "Float8"),
)
"""Types of the query and of the cache that go together."""

OUTPUT_TYPES: tuple[tuple[Element, Element], ...] = (
    *((element, element) for element in ACTIVATION_TYPES),
    *((element, quantised) for element in ACTIVATION_TYPES for quantised in QUANTISED_TYPES),
)
"""Types of activations and of what is made of them."""

TOKEN_TILES = (1, 2, 4, 8)
"""Of 8 tokens, that one block of gemm_w4a16 takes."""

SHARED_BYTES_LIMIT = 99 << 10
"""What a block may have on the GPUs that have least (sm_89, sm_120)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One source of cuda/ with its macros."""

    source: str
    macros: MappingProxyType[str, str | int]
    name: str
    """For people: what the macros say."""


def attention(source: str, head_dim: int, query: Element, cache: Element, row_tiles: int | None = None) -> Variant:
    """A source with HEAD_DIM, QUERY_TYPE and CACHE_TYPE. paged_prefill for short queries has `row_tiles` 1."""
    macros: dict[str, str | int] = {"HEAD_DIM": head_dim, "QUERY_TYPE": query, "CACHE_TYPE": cache}
    name = f"{head_dim} {query}" + ("" if cache == query else f"/{cache}")
    if row_tiles is not None:
        macros["ROW_TILES"] = row_tiles
        name += f" {row_tiles} row tile"
    return Variant(f"{source}.cu", MappingProxyType(macros), name)


def norm_act(element: Element, output: Element) -> Variant:
    """`output` is the type of the products that read it: `element`, or one of QUANTISED_TYPES."""
    name = element + ("" if output == element else f"/{output}")
    return Variant("norm_act.cu", MappingProxyType({"ELEMENT_TYPE": element, "OUTPUT_TYPE": output}), name)


def gemm_w4a16(element: Element, token_tiles: int) -> Variant:
    """For tiles of 8 times `token_tiles` tokens."""
    macros: dict[str, str | int] = {"ELEMENT_TYPE": element, "TOKEN_TILES": token_tiles}
    return Variant("gemm_w4a16.cu", MappingProxyType(macros), f"{element} {8 * token_tiles} tokens")


def only(source: str) -> Variant:
    """Of a source without macros."""
    return Variant(f"{source}.cu", MappingProxyType({}), "")


def sampling(logits: Element = "Float32") -> Variant:
    return Variant("sampling.cu", MappingProxyType({"LOGIT_TYPE": logits}), logits)


def moe(source: str, element: Element, tile_rows: int) -> Variant:
    """`source` is moe_routing or moe_product; `tile_rows`, of both the same, is 16 for few tokens and 64 for many."""
    macros: dict[str, str | int] = {"ELEMENT_TYPE": element, "TILE_ROWS": tile_rows}
    return Variant(f"{source}.cu", MappingProxyType(macros), f"{element} {tile_rows} rows")


def all_variants() -> list[Variant]:
    variants = [only("update_rows"), only("block_copy"), only("count_tokens")]
    variants += [sampling("Float32"), sampling("Bfloat16"), sampling("Float16")]
    variants += [norm_act(element, output) for element, output in OUTPUT_TYPES]
    variants += [gemm_w4a16(element, tiles) for element in ACTIVATION_TYPES for tiles in TOKEN_TILES]
    for element in ACTIVATION_TYPES:
        for tile_rows in (16, 64):
            variants += [moe("moe_routing", element, tile_rows), moe("moe_product", element, tile_rows)]
        variants.append(attention("attn_mla", LATENT_DIM, element, element))
        variants.append(attention("attention_merge", LATENT_VALUE_DIM, element, element))
    for head_dim in HEAD_DIMS:
        for query, cache in CACHE_TYPES:
            variants.append(attention("paged_decode", head_dim, query, cache))
            variants.append(attention("paged_prefill", head_dim, query, cache))
            variants.append(attention("kv_write", head_dim, query, cache))
            if head_dim <= 128:
                variants.append(attention("paged_prefill", head_dim, query, cache, row_tiles=1))
            if query == cache:  # merging does not read the cache
                variants.append(attention("attention_merge", head_dim, query, cache))
    return sorted(variants, key=lambda variant: variant.source)
