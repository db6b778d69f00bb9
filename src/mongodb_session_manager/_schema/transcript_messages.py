"""What the pipelines of transcripts gave -> messages and parts."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from ..types.transcripts import Part, PartMark, TranscriptMessage
from .blobs import Files, put_back, stored_marks
from .parts import block_type, json_form
from .summaries import figures, text, time, whole_number
from .values import Stored, decode, decode_first_version

logger = logging.getLogger(__name__)

_NAME_CHARACTERS = 8 * 1024


def transcript_message(row: Any) -> TranscriptMessage:
    """Return a message of a transcript; one of another shape is not readable."""
    message_id = whole_number(row.get("message_id"))
    try:
        return _message(row, message_id)
    except Exception as error:  # noqa: BLE001 - put there by hand, it may be anything
        logger.debug("error=<%s> | a message cannot be read", type(error).__name__)
        return TranscriptMessage(message_id=-1 if message_id is None else message_id, readable=False)


def _message(row: Stored, message_id: int | None) -> TranscriptMessage:
    content, call = row["content"], row["call"]
    blocks = content.get("blocks")
    return TranscriptMessage(
        message_id=-1 if message_id is None else message_id,
        role=row["role"] or "",
        content=[_whole(content)] if blocks is None else [_block(row, n, each) for n, each in enumerate(blocks)],
        created_at=time(row["created_at"]),
        updated_at=time(row["updated_at"]),
        redacted=row["redacted"],
        tracking_id=text(decode(row["tracking_id"]), _NAME_CHARACTERS),
        usage=figures(call) if call and call.get("calls") else None,
        model=row["model"],
        readable=message_id is not None and row["role"] is not None,
    )


def _whole(content: Stored) -> PartMark:
    return PartMark(n=0, kind="content", media_type="application/json", size=whole_number(content["whole"]) or 0)


def _block(row: Stored, n: int, found: Stored) -> dict[str, Any] | PartMark:
    if "b" not in found:
        return _described(n, found)
    marks = list(stored_marks(found["b"])) if row["has_files"] else []
    if not marks:
        return _decoded(row, found["b"])
    kind, media_type, name = block_type(found["b"])
    return PartMark(n=n, kind=kind, media_type=media_type, name=name, size=sum(int(mark["length"]) for mark in marks))


def _described(n: int, found: Stored) -> PartMark:
    keys = [key for key in found["keys"] if key is not None]
    kind, media_type, name = block_type({key: found.get(key) or {} for key in keys})
    return PartMark(n=n, kind=kind, media_type=media_type, name=name, size=whole_number(found["size"]) or 0)


def _decoded(row: Mapping[str, Any], block: Any) -> dict[str, Any]:
    read = decode_first_version if row["is_first_version"] else decode
    found = read(block) if row["is_first_version"] or row["escaped"] else block
    if not isinstance(found, dict):
        raise TypeError("a block is no object")
    return found


# Parts


def part_of(row: Mapping[str, Any], n: int, files: Files) -> Part | None:
    """Return a content block; None if the message has no such block.

    Args:
        row: What a pipeline of parts gave for the message.
        n: The number of the block.
        files: The large values in it.
    """
    block = row["block"]
    if row["has_files"] and row["whole"] is not None:
        content = put_back({"%file": row["whole"]}, files)
        block = content[n] if isinstance(content, list) and n < len(content) else None
    elif isinstance(block, str):
        block = {"text": block} if n == 0 else None
    elif row["has_files"]:
        block = put_back(block, files)
    return _part(_decoded(row, block)) if isinstance(block, dict) else None


def _part(block: dict[str, Any]) -> Part:
    kind, media_type, name = block_type(block)
    inside = block.get(kind)
    if kind == "text" and isinstance(inside, str):
        return Part(media_type=media_type, data=inside)
    source = inside.get("source") if isinstance(inside, Mapping) else None
    data = source.get("bytes") if isinstance(source, Mapping) else None
    if isinstance(data, bytes):
        return Part(media_type=media_type, name=name, data=data)
    if isinstance(source, Mapping) and isinstance(source.get("text"), str):
        return Part(media_type=media_type, name=name, data=source["text"])
    return Part(media_type="application/json", name=name, data=json.dumps(json_form(block, "base64"), allow_nan=False))


def marks_in(row: Mapping[str, Any]) -> list[Stored]:
    """Return the marks of the large values that a block needs."""
    if not row["has_files"]:
        return []
    return [row["whole"]] if row["whole"] is not None else list(stored_marks(row["block"]))
