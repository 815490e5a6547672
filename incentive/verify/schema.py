"""Whether a text is JSON in the form that a JSON Schema (draft 2020-12) asks for. The only file that imports jsonschema
(extra `structured`).

The schema is the task's and trusted, the text is a model's. Refused beyond the schema: `NaN` and `Infinity`, which are not
JSON, and a key that comes twice, whose readers do not agree. A reference to another document is never fetched.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Literal, NoReturn

MAX_CHARS = 100_000  # longer answers fail unread

Fault = Literal["not JSON", "not the schema"]


class _NotJSON(ValueError):
    pass


def _constant(name: str) -> NoReturn:
    raise _NotJSON(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotJSON("a key comes twice")
    return found


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """Raises:
    ConfigError: jsonschema is not installed.
    ValueError: the schema is none.
    """
    try:
        from jsonschema import Draft202012Validator, SchemaError
        from referencing.jsonschema import EMPTY_REGISTRY
    except ImportError:
        from incentive.config import ConfigError

        raise ConfigError("a JSON Schema needs jsonschema\nInstall it: pip install 'incentive[structured]'") from None
    form = json.loads(schema)
    try:
        Draft202012Validator.check_schema(form)
    except SchemaError as error:
        raise ValueError(f"not a JSON Schema: {error.message}") from None
    return Draft202012Validator(form, registry=EMPTY_REGISTRY)


def fault(text: str, schema: dict[str, Any]) -> Fault | None:
    """What is wrong with the form of an answer, or None. Never raises on any text.

    Raises:
        ConfigError: jsonschema is not installed.
        ValueError: the schema itself is none.
    """
    validator = _validator(json.dumps(schema, sort_keys=True))
    if len(text) > MAX_CHARS:
        return "not JSON"
    try:
        found = json.loads(text, parse_constant=_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return "not JSON"
    try:
        return None if validator.is_valid(found) else "not the schema"
    except RecursionError:  # the text nests deeper than the schema can follow
        return "not the schema"
