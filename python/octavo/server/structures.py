"""What a request's output has to match, by whichever field it says so."""

from collections.abc import Callable

from octavo.server.errors import ApiError
from octavo.server.protocol import GenerationRequest, StructuredOutputs
from octavo.structured import Structure, StructuredOutputsParams, response_format

Asked = Callable[[], StructuredOutputsParams | None]


def structure_of(request: GenerationRequest) -> tuple[str, Structure] | None:
    """The field that asks for a structure, and the structure; None when there is none.

    Raises ApiError 400 that names the field, or the two that contradict each other.
    """
    whitespace = request.guided_whitespace_pattern
    given = request.structured_outputs
    ways: dict[str, Asked] = {}
    if request.response_format is not None:
        format = request.response_format
        ways["response_format"] = lambda: response_format(format)
    if given is not None:
        ways["structured_outputs"] = lambda: from_structured_outputs(given)
    if request.guided_json is not None:
        ways["guided_json"] = lambda: StructuredOutputsParams(json=request.guided_json, whitespace_pattern=whitespace)
    if request.guided_json_object:
        ways["guided_json_object"] = lambda: StructuredOutputsParams(json_object=True, whitespace_pattern=whitespace)
    if request.guided_regex is not None:
        ways["guided_regex"] = lambda: StructuredOutputsParams(regex=request.guided_regex)
    if request.guided_choice:
        ways["guided_choice"] = lambda: StructuredOutputsParams(choice=request.guided_choice)
    if request.guided_grammar is not None:
        ways["guided_grammar"] = lambda: StructuredOutputsParams(grammar=request.guided_grammar)
    found: dict[str, Structure] = {}
    for field, ask in ways.items():
        structure = build(field, ask)
        if structure is not None:
            found[field] = structure
    if len(found) > 1:
        first, second = list(found)[:2]
        raise ApiError(400, f"{first}: contradicts {second}; give one of them.", first)
    if whitespace is not None and not (request.guided_json is not None or request.guided_json_object):
        raise ApiError(400, "guided_whitespace_pattern: needs guided_json.", "guided_whitespace_pattern")
    return next(iter(found.items()), None)


def from_structured_outputs(given: StructuredOutputs) -> StructuredOutputsParams:
    return StructuredOutputsParams(
        json=given.json,
        regex=given.regex,
        choice=given.choice,
        grammar=given.grammar,
        json_object=given.json_object,
        structural_tag=given.structural_tag,
        disable_any_whitespace=given.disable_any_whitespace,
        disable_additional_properties=given.disable_additional_properties,
        whitespace_pattern=given.whitespace_pattern,
    )


def build(field: str, ask: Asked) -> Structure | None:
    try:
        asked = ask()
        return None if asked is None else asked.structure()
    except ValueError as error:
        named = f"{error}" if f"{error}".startswith(f"{field}:") else f"{field}: {error}"
        raise ApiError(400, named, field) from None
