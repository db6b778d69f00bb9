"""Segments of messages and feedback, and files of offloaded values."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from bson import ObjectId
from bson.int64 import Int64

from ..types import FeedbackDoc, FeedbackReferenceDoc, MessageDoc, OutboxReferenceDoc, SegmentDoc, SegmentReferenceDoc
from .blobs import Files
from .data import feedback_counts
from .histories import edited_message_filter
from .ids import now
from .lives import Life
from .messages import MessageEdit
from .values import FilterAndUpdate, Pipeline, Stored, Update

Reference: TypeAlias = SegmentReferenceDoc | FeedbackReferenceDoc | OutboxReferenceDoc


def segment_messages_pipeline(
    life: Life, references: Iterable[Reference], spans: Sequence[tuple[int, int | None]]
) -> Pipeline:
    """Return the aggregation that reads the messages of segments with ids in one of the spans, ends included."""
    wanted = {"$or": [_in_span(*span) for span in spans]}
    messages = {"$filter": {"input": "$messages", "as": "message", "cond": wanted}}
    return [{"$match": segments_filter(life, references)}, {"$project": {"messages": messages}}]


def _in_span(first: int, last: int | None) -> Stored:
    bounds = [{"$gte": ["$$message.message_id", first]}]
    return {"$and": bounds if last is None else [*bounds, {"$lte": ["$$message.message_id", last]}]}


def segments_filter(life: Life, references: Iterable[Reference]) -> Stored:
    """Return the filter of the segments that references name."""
    return {"_id": {"$in": [reference["_id"] for reference in references]}, **life.children}


def moved_feedback_update(
    session_id: str, feedbacks: list[FeedbackDoc], segments: int, reference: FeedbackReferenceDoc
) -> FilterAndUpdate:
    """Return filter and update that replace feedback by a reference to its segment.

    Feedback is only appended or moved, so it is unchanged if the numbers of entries and segments are.
    """
    wanted = {"_id": session_id, "feedbacks": {"$size": len(feedbacks)}}
    moved: Stored = {"feedbacks": [], "feedback_bytes": 0}
    if segments:
        wanted["feedback_segments"] = {"$size": segments}
    else:
        wanted["feedback_segments"] = {"$exists": False}
        # Older versions did not count what they added.
        moved["feedback_counts"] = feedback_counts(feedbacks)
    return wanted, {"$set": moved, "$push": {"feedback_segments": reference}}


def new_segment_doc(
    life: Life, agent_id: str, messages: list[MessageDoc], size: int
) -> tuple[SegmentDoc, SegmentReferenceDoc]:
    """Return a segment of messages, of so many bytes, and the reference to it."""
    segment_id = ObjectId()
    segment = {"_id": segment_id, **life.fields, "kind": "messages", "agent_id": agent_id, "messages": messages}
    reference: SegmentReferenceDoc = {
        "_id": segment_id,
        "count": len(messages),
        "bytes": size,
        "first_id": messages[0]["message_id"],
        "last_id": messages[-1]["message_id"],
    }
    return cast(SegmentDoc, segment), reference


def extended_segment_update(
    life: Life, reference: SegmentReferenceDoc, messages: list[MessageDoc], move_id: ObjectId
) -> FilterAndUpdate:
    """Return filter and update that append messages to a segment, if it ends where its reference says.

    The messages are invisible until a reference names them. The segment notes the move that appended to it.
    """
    wanted = {**segments_filter(life, [reference]), "messages": {"$size": reference["count"]}}
    return wanted, {"$push": {"messages": {"$each": messages}}, "$set": {"move_id": move_id}}


def extended_segments_filter(life: Life, references: Iterable[Reference], move_id: ObjectId) -> Stored:
    """Return the filter of the segments that a move has appended to."""
    return {**segments_filter(life, references), "move_id": move_id}


def shortened_segment_update(life: Life, reference: SegmentReferenceDoc) -> FilterAndUpdate:
    """Return filter and update that remove the messages of a segment that its reference does not name."""
    return segments_filter(life, [reference]), {"$pull": {"messages": {"message_id": {"$gt": reference["last_id"]}}}}


def segment_edit_update(life: Life, agent_id: str, edit: MessageEdit) -> FilterAndUpdate:
    """Return filter and update that change a message in every segment that holds it, with or without a reference."""
    update: Update = {"$set": {f"messages.$.{name}": value for name, value in edit.fields.items()}}
    if edit.dropped:
        update["$unset"] = {f"messages.$.{name}": "" for name in edit.dropped}
    return {**life.children, "agent_id": agent_id, **edited_message_filter("messages", edit)}, update


def segment_ids_projection(life: Life, reference: SegmentReferenceDoc) -> tuple[Stored, dict[str, int]]:
    """Return filter and projection of the message ids in one segment."""
    return segments_filter(life, [reference]), {"messages.message_id": 1}


def fork_segments_projection(
    source: Life, references: Iterable[Reference], fork: Life, copied: Iterable[Reference]
) -> tuple[Stored, dict[str, int]]:
    """Return filter and projection that tell which messages of segments were changed, and when, and of their copies."""
    wanted = {"$or": [segments_filter(source, references), segments_filter(fork, copied)]}
    return wanted, {"messages.message_id": 1, "messages.updated_at": 1, "removals": 1}


def tracked_segments_filter(life: Life, agent_ids: Iterable[str], tracking_ids: Iterable[Any]) -> Stored:
    """Return the filter of the segments that hold a message with one of some tracking ids, as stored."""
    wanted = {**life.children, "agent_id": {"$in": list(agent_ids)}}
    return {**wanted, "messages.tracking_id": {"$in": list(tracking_ids)}}


def new_file_doc(life: Life, digest: str, length: int, chunk_bytes: int) -> Stored:
    """Return the document of a file whose chunks are not stored yet."""
    metadata = {**life.fields, "sha256": digest, "uploading": True}
    sizes = {"length": Int64(length), "chunkSize": chunk_bytes}
    return {"_id": ObjectId(), "filename": digest, **sizes, "uploadDate": now(), "metadata": metadata}


def uploaded_file_update(file_id: ObjectId) -> FilterAndUpdate:
    """Return filter and update that mark a file as whole, unless a removal has marked it."""
    return {"_id": file_id, **_NOT_REMOVED}, {"$unset": {"metadata.uploading": ""}}


# The condition that no message of a session ever had offloaded values.
WITHOUT_FILES_FILTER = {"has_files": {"$ne": True}}


def has_files_update(session_id: str) -> FilterAndUpdate:
    """Return filter and update that note on a session that its messages have offloaded values."""
    return {"_id": session_id}, {"$set": {"has_files": True}}


_NOT_REMOVED = {"metadata.removals.0": {"$exists": False}}
_WHOLE = {"metadata.uploading": {"$exists": False}}


def files_filter(life: Life, digests: Iterable[str] | None = None) -> Stored:
    """Return the filter of a session's files in any state: all files, or the files of some values."""
    wanted = life.files
    return wanted if digests is None else {**wanted, "metadata.sha256": {"$in": list(digests)}}


def whole_files_filter(life: Life, digests: Iterable[str]) -> Stored:
    """Return the filter of files that can be read."""
    return {**files_filter(life, digests), **_WHOLE}


def lasting_files_filter(life: Life, digests: Iterable[str]) -> Stored:
    """Return the filter of files of this life that can be read and that no removal has marked."""
    return {**whole_files_filter(life, digests), **life.own_files, **_NOT_REMOVED}


def marked_files_update(life: Life, digests: Iterable[str], removal: ObjectId) -> FilterAndUpdate:
    """Return filter and update that mark files for a removal: the files of some values, and files marked before."""
    any_of = [files_filter(life, digests), {**files_filter(life), "metadata.removals.0": {"$exists": True}}]
    return {"$or": any_of}, {"$addToSet": {"metadata.removals": removal}}


def marked_files_filter(life: Life, removal: ObjectId) -> Stored:
    """Return the filter of the files that a removal has marked."""
    return {**files_filter(life), "metadata.removals": removal}


def kept_files_update(life: Life, digests: Iterable[str], removal: ObjectId) -> FilterAndUpdate:
    """Return filter and update that take a removal's mark back."""
    return files_filter(life, digests), {"$pull": {"metadata.removals": removal}}


def files_by_id_filter(session_id: str, file_ids: Iterable[ObjectId]) -> Stored:
    """Return the filter of some of a session's files."""
    return {"_id": {"$in": list(file_ids)}, "metadata.session_id": session_id}


def values_of_files(files: Iterable[Mapping[str, Any]], chunks: Iterable[Mapping[str, Any]]) -> Files:
    """Return the values of files by their digests; one that is damaged is left out."""
    digests = {file["_id"]: str(file["metadata"]["sha256"]) for file in files}
    parts: dict[Any, list[tuple[int, bytes]]] = defaultdict(list)
    for chunk in chunks:
        if isinstance(chunk["data"], bytes):
            parts[chunk["files_id"]].append((chunk["n"], chunk["data"]))
    values = ((digests[file_id], b"".join(data for _, data in sorted(found))) for file_id, found in parts.items())
    return {digest: value for digest, value in values if hashlib.sha256(value).hexdigest() == digest}


def chunks_filter(file_ids: Iterable[ObjectId]) -> Stored:
    """Return the filter of the chunks of files."""
    return {"files_id": {"$in": list(file_ids)}}


def segments_with_files_projection(life: Life) -> tuple[Stored, dict[str, int]]:
    """Return filter and projection of the messages in segments that refer to offloaded values."""
    return {**life.children, "messages.files": {"$exists": True}}, {"messages.files": 1}
