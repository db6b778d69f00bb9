"""Stored values in a form that JSON and UTF-8 can express; pure, no I/O."""

import base64
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

# The blocks of a message that hold a file.
_MEDIA = frozenset({"audio", "image", "video"})
_DOCUMENTS = {
    "pdf": "application/pdf",
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "html": "text/html",
    "txt": "text/plain",
    "md": "text/markdown",
}
_UNKNOWN = "application/octet-stream"
# What json.dumps makes of keys that are not strings.
_WORDS = {True: "true", False: "false", None: "null"}


def json_form(value: Any, form: str) -> Any:
    """Return a copy for ``json.dumps(…, allow_nan=False)`` and UTF-8; values that these take already stay equal.

    Args:
        value: Any value that the library gives back.
        form: What bytes become. ``"note"``: ``{"type": <media type>, "size": <bytes>}``. ``"base64"``: text.
            ``"sentence"``: their size, for a reader.
    """
    return _JsonForm(_OF_BYTES[form]).of(value, _UNKNOWN)


def _note(value: bytes, media_type: str) -> dict[str, Any]:
    return {"type": media_type, "size": len(value)}


def _base64(value: bytes, media_type: str) -> str:
    return base64.b64encode(value).decode()


def _sentence(value: bytes, media_type: str) -> str:
    return f"<{len(value)} bytes>"


_OF_BYTES: dict[str, Callable[[bytes, str], Any]] = {"note": _note, "base64": _base64, "sentence": _sentence}


class _JsonForm:
    """Copies one value."""

    def __init__(self, of_bytes: Callable[[bytes, str], Any]) -> None:
        self._of_bytes = of_bytes

    def of(self, value: Any, media_type: str) -> Any:
        if isinstance(value, Mapping):
            return self._of_mapping(value, media_type)
        if isinstance(value, list | tuple):
            return [self.of(item, media_type) for item in value]
        if isinstance(value, bytes | bytearray | memoryview):
            return self._of_bytes(value if isinstance(value, bytes) else bytes(value), media_type)
        return _scalar(value)

    def _of_mapping(self, value: Mapping[Any, Any], media_type: str) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, item in value.items():
            found = _media_type(key, item) or media_type
            copy[_free(key, copy, value)] = self.of(item, found)
        return copy


def _media_type(kind: object, block: object) -> str | None:
    """Return the media type of the bytes in a block; None if the block does not tell it."""
    form = block.get("format") if isinstance(block, Mapping) else None
    if not isinstance(form, str):
        return None
    if kind == "document":
        return _DOCUMENTS.get(form, _UNKNOWN)
    return _text(f"{kind}/{form}") if kind in _MEDIA else None


def block_type(block: object) -> tuple[str, str, str | None]:
    """Return the kind of a content block, its media type, and the name of a document in it."""
    fields = block if isinstance(block, Mapping) else {}
    kind = next((key for key in fields if key in _MEDIA or key in {"document", "text"}), next(iter(fields), "unknown"))
    if kind == "text":
        return kind, "text/plain", None
    inside = fields.get(kind)
    media_type = _media_type(kind, inside) if kind in _MEDIA or kind == "document" else "application/json"
    name = inside.get("name") if isinstance(inside, Mapping) and kind == "document" else None
    return _text(str(kind)), media_type or _UNKNOWN, _text(name) if isinstance(name, str) else None


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        return _number(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _float_name(value)
    return value.isoformat() if isinstance(value, datetime) else _text(str(value))


def _number(value: int) -> Any:
    try:
        str(value)
    except ValueError:  # Python refuses to write a number of more than some thousand digits
        return hex(value)
    return value


def _float_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: str) -> str:
    # A lone surrogate becomes U+FFFD, as a decoder of UTF-8 does it.
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _name(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return _WORDS[key]
    return str(_scalar(key))


def _free(key: Any, taken: Mapping[str, Any], original: Mapping[Any, Any]) -> str:
    """Return a free name for a key: two keys, such as 1 and "1", may have the same name in JSON."""
    name = _name(key)
    if name == key:
        return name
    while name in taken or name in original:
        name += "'"
    return name
