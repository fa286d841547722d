"""Errors in the names that the client used, where a route translates its request into another one."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from octavo.server.errors import ApiError


class FieldNames:
    """What the fields of the inner request are called outside."""

    def __init__(self, outside: Mapping[str, str]) -> None:
        self._outside = outside

    @contextmanager
    def of_client(self) -> Iterator[None]:
        """Renames the field in every ApiError that is raised inside."""
        try:
            yield
        except ApiError as error:
            raise self.renamed(error) from None

    def renamed(self, error: ApiError) -> ApiError:
        name = self._outside.get(error.param or "")
        if name is None:
            return error
        inner = re.escape(str(error.param))
        # A name with an underscore is no word of English: it is the field's wherever it stands.
        pattern = rf"\b{inner}\b" if "_" in inner else rf"^{inner}\b"
        return ApiError(error.status, re.sub(pattern, name, error.message), name)
