"""The tool with which an agent keeps metadata of its own session."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pymongo.errors import PyMongoError
from strands import tool
from strands.tools.decorator import DecoratedFunctionTool

from .._schema.ids import is_number, list_index, shown
from .._schema.parts import json_form
from ..errors import MongoDBSessionError

logger = logging.getLogger(__name__)

_DESCRIPTION = """Read, store or delete facts about this conversation (metadata), such as the user's preferences.

Use "get" before answering questions about stored facts, "update" as soon as the user states a fact worth keeping,
"delete" when the user wants something forgotten. Stored facts survive the end of the conversation."""

_KEY_HINT = "A dot reaches into a nested field: 'preferences.theme'."

_ACTIONS = ("get", "set", "update", "delete")

_OUT_OF_ORDER = "the notebook cannot be reached right now. Go on without it, and try again later."


def make_metadata_tool(
    get: Callable[[], Mapping[str, Any]],
    update: Callable[[dict[str, Any]], Any],
    delete: Callable[[list[str]], Any],
    allowed_keys: Sequence[str] | None = None,
    read_only: bool = False,
) -> DecoratedFunctionTool[..., str]:
    """Return the tool ``manage_metadata`` over three functions.

    Args:
        get: Returns all metadata, under ``"metadata"``.
        update: Stores fields.
        delete: Removes fields.
        allowed_keys: The only fields, with all nested in them, that the model may see and change.
        read_only: Whether the model may only read.
    """
    access = _Access(allowed_keys, read_only)

    @tool(name="manage_metadata", description=_DESCRIPTION, inputSchema=_schema(access.actions))
    def manage_metadata(
        action: str, metadata: dict[str, Any] | str | None = None, keys: list[str] | str | None = None
    ) -> str:
        try:
            answer = do(action, metadata, keys)
        except Exception as error:  # noqa: BLE001 - the model is told; the agent must not fail because of its notebook
            answer = f"Error: {_told(error)}"
        return str(json_form(answer, "sentence"))

    def do(action: str, metadata: object, keys: object) -> str:
        access.check_action(action)
        if action == "get":
            return _retrieved((get() or {}).get("metadata", {}), _keys(keys), access)
        if action == "delete":
            return _deleted(delete, access.checked(_required(_keys(keys), "keys")))
        return _updated(update, access, _fields(metadata))

    return manage_metadata


class _Access:
    """The actions and fields that a model may use."""

    def __init__(self, allowed_keys: Sequence[str] | None, read_only: bool) -> None:
        if isinstance(allowed_keys, str):
            raise TypeError("allowed_keys must be a list of names, got a string")
        self._allowed = None if allowed_keys is None else tuple(allowed_keys)
        self.actions = _ACTIONS[:1] if read_only else _ACTIONS

    def check_action(self, action: object) -> None:
        if action not in self.actions:
            raise ValueError(f"action must be one of {', '.join(self.actions)}, got {shown(action)}")

    def checked(self, keys: list[str]) -> list[str]:
        refused = [key for key in keys if not self._permits(key)]
        if refused:
            raise PermissionError(f"no access to {refused}; allowed: {list(self._allowed or ())}")
        return keys

    def visible(self, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._allowed is None:
            return metadata
        found = ((key, _lookup(metadata, key)) for key in self._allowed)
        return {key: value for key, value in found if value is not _MISSING}

    def _permits(self, key: object) -> bool:
        return self._allowed is None or any(
            key == allowed or str(key).startswith(f"{allowed}.") for allowed in self._allowed
        )


_MISSING = object()


def _lookup(metadata: Any, key: str) -> Any:
    """Follow a dotted key as an update does; a field whose own name has the dots comes first."""
    if isinstance(metadata, Mapping) and key in metadata:
        return metadata[key]
    first, dot, rest = key.partition(".")
    found = _inside(metadata, first)
    return _lookup(found, rest) if dot and found is not _MISSING else found


def _inside(value: Any, name: str) -> Any:
    """Return a field of an object, or an element of a list."""
    if isinstance(value, list | tuple) and is_number(name) and list_index(name) < len(value):
        return value[list_index(name)]
    return value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING


def _retrieved(metadata: Mapping[str, Any], keys: list[str] | None, access: _Access) -> str:
    if not keys:
        return f"All metadata: {_json(access.visible(metadata))}"
    found = {key: _lookup(metadata, key) for key in access.checked(keys)}
    return f"Metadata retrieved: {_json({key: value for key, value in found.items() if value is not _MISSING})}"


def _updated(update: Callable[[dict[str, Any]], Any], access: _Access, metadata: dict[str, Any]) -> str:
    keys = access.checked(list(metadata))
    update(metadata)
    return f"Successfully updated metadata fields: {keys}"


def _deleted(delete: Callable[[list[str]], Any], keys: list[str]) -> str:
    delete(keys)
    return f"Successfully deleted metadata fields: {keys}"


def _keys(keys: object) -> list[str] | None:
    if isinstance(keys, str):
        keys = _parsed(keys) if keys.lstrip().startswith(("[", '"')) else [keys]
    if keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        return keys
    return [keys] if isinstance(keys, str) else _refuse("keys", "a list of field names", keys)


def _fields(metadata: object) -> dict[str, Any]:
    if isinstance(metadata, str):
        metadata = _parsed(metadata)
    if not isinstance(metadata, dict):
        _refuse("metadata", "an object with the fields to store", metadata)
    fields: dict[str, Any] = _required(metadata, "metadata")
    return fields


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("not valid JSON: it is nested too deep") from None


def _required(value: Any, name: str) -> Any:
    if not value:
        raise ValueError(f"{name} is needed for this action")
    return value


def _refuse(name: str, wanted: str, value: object) -> Any:
    raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def _json(value: object) -> str:
    return json.dumps(json_form(value, "sentence"), ensure_ascii=False, allow_nan=False)


def _told(error: Exception) -> str:
    """Return an error as a model may read it: those of drivers and systems name hosts, ports and topology."""
    if isinstance(error, MongoDBSessionError) or not any(map(_is_foreign, _with_causes(error))):
        return str(error)
    logger.warning("error=<%s> | the metadata tool failed, and told the model so", type(error).__name__)
    return _OUT_OF_ORDER


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_foreign(error: BaseException) -> bool:
    if isinstance(error, PermissionError) and error.errno is None:  # raised by a hook or by this tool, to refuse
        return False
    return isinstance(error, PyMongoError | OSError) or type(error).__module__.partition(".")[0] in _AWS


_AWS = frozenset({"boto3", "botocore"})


def _schema(actions: Sequence[str]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "action": {"type": "string", "enum": list(actions), "description": "What to do; set is the same as update."},
        "metadata": {
            "type": "object",
            "description": f"For set and update: the fields to store; others stay as they are. {_KEY_HINT}",
        },
        "keys": {
            "type": "array",
            "items": {"type": "string"},
            "description": f"For get: the fields wanted (default: all). For delete: the fields to remove. {_KEY_HINT}",
        },
    }
    if len(actions) == 1:
        del properties["metadata"]
    return {"json": {"type": "object", "properties": properties, "required": ["action"]}}
