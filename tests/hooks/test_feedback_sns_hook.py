"""Feedback on real SNS topics, as their subscribers get it."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from mongodb_session_manager import (
    create_feedback_sns_hook,
    is_feedback_sns_hook_available,
)
from tests.aliases import NewManager

ARN = "arn:aws:sns:eu-west-1:123456789012:feedback"


@pytest.fixture
def topics(aws: Any) -> dict[str, tuple[str, str]]:
    """Topics by rating, each with the queue of a subscriber."""
    return {name: aws.topic() for name in ("good", "bad", "neutral")}


@pytest.fixture
def hook(aws: Any, topics: dict[str, tuple[str, str]]) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        arns = {f"topic_arn_{name}": arn for name, (arn, _) in topics.items()}
        return create_feedback_sns_hook(**{**arns, "endpoint_url": aws.faulty_url, **options})

    return make


@pytest.fixture
def published(aws: Any, topics: dict[str, tuple[str, str]]) -> Callable[..., list[dict[str, Any]]]:
    """What the subscribers of a topic got."""

    def read(name: str, count: int | None = None) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in aws.received(topics[name][1], count)]

    return read


def attributes(notification: dict[str, Any]) -> dict[str, str]:
    return {name: value["Value"] for name, value in notification["MessageAttributes"].items()}


def test_each_rating_has_a_topic(hook: Any, published: Any, new_manager: NewManager) -> None:
    with new_manager(feedback_hook=hook()) as manager:
        manager.add_feedback({"rating": "up", "comment": "Quick"})
        manager.add_feedback({"rating": "down", "comment": "Wrong"})
        manager.add_feedback({"rating": None, "comment": "Hm"})
        manager.add_feedback({"rating": ["odd"]})
        assert len(manager.get_feedbacks()) == 4

    (good,), (bad,), neutral = published("good", 1), published("bad", 1), published("neutral", 2)
    assert good["Subject"] == "Feedback positive on session s-1"
    assert good["Message"] == "Session: s-1\n\nQuick"
    assert attributes(good) == {"session_id": "s-1", "rating": "positive"}
    assert (bad["Subject"], attributes(bad)["rating"]) == ("Feedback negative on session s-1", "negative")
    assert [each["Message"] for each in neutral] == ["Session: s-1\n\nHm", "Session: s-1\n\n"]


def test_a_rating_can_be_switched_off(hook: Any, published: Any, new_manager: NewManager) -> None:
    with new_manager(feedback_hook=hook(topic_arn_good="none", topic_arn_neutral="none")) as manager:
        for rating in ("up", None, "down"):
            manager.add_feedback({"rating": rating})

    assert len(published("bad", 1)) == 1
    assert published("good") == published("neutral") == []


def test_prefixes_are_templates(hook: Any, published: Any, new_manager: NewManager) -> None:
    prefixes = {"subject_prefix_bad": "[{rating}] ", "body_prefix_bad": "{timestamp} {session_id} {{}}\n"}
    with new_manager(feedback_hook=hook(**prefixes)) as manager:
        manager.add_feedback({"rating": "down", "comment": "{rating}"})
        manager.add_feedback({"rating": "up"})

    (bad,), (good,) = published("bad", 1), published("good", 1)
    assert bad["Subject"] == "[negative] Feedback negative on session s-1"
    first, *rest = bad["Message"].splitlines()
    assert datetime.fromisoformat(first.split()[0]).tzinfo is not None
    assert first.split()[1:] == ["s-1", "{}"]
    assert rest == ["Session: s-1", "", "{rating}"]
    assert good["Message"] == "Session: s-1\n\n"


@pytest.mark.parametrize("session_id", ["a\nb\x01", "kunde ä", "x" * 300, "日本"])
def test_a_subject_is_what_sns_takes(hook: Any, published: Any, new_manager: NewManager, session_id: str) -> None:
    with new_manager(session_id, feedback_hook=hook(subject_prefix_good="\n é ")) as manager:
        manager.add_feedback({"rating": "up", "comment": "x\x00y"})

    (good,) = published("good", 1)
    subject = good["Subject"]
    assert len(subject) <= 100
    assert subject.isascii()
    assert subject.isprintable()
    assert subject.startswith("? Feedback positive on session ")
    assert good["Message"].endswith("x\ufffdy")


def test_a_long_comment_is_cut_between_characters(hook: Any, published: Any, new_manager: NewManager) -> None:
    with new_manager(feedback_hook=hook()) as manager:
        manager.add_feedback({"rating": "down", "comment": "é😀" * 60_000})
        manager.add_feedback({"rating": "down", "comment": "short"})

    long, short = published("bad", 2)
    assert 250_000 < len(long["Message"].encode()) <= 262_144
    assert long["Message"].endswith(" […truncated]")
    assert "\ufffd" not in long["Message"]
    assert attributes(long)["truncated"] == "true"
    assert "truncated" not in attributes(short)


def test_a_hook_inside_changes_what_is_told(hook: Any, published: Any, new_manager: NewManager) -> None:
    def correct(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        return original_func(feedback={**kwargs["feedback"], "rating": "down"})

    with new_manager(feedback_hook=[hook(), correct]) as manager:
        manager.add_feedback({"rating": "up", "comment": "Fine"})

    assert [each["Message"] for each in published("bad", 1)] == ["Session: s-1\n\nFine"]
    assert published("good") == []


def test_nothing_is_told_of_what_was_not_stored(hook: Any, published: Any, new_manager: NewManager) -> None:
    with new_manager(feedback_hook=hook()) as manager:
        for refused in ({"rating": "up", "created_at": 1}, {"rating": "up", "agent_id": "a", "message_id": 9}):
            with pytest.raises(ValueError, match=r"created_at|no message"):
                manager.add_feedback(refused)
        with pytest.raises(TypeError):
            manager.add_feedback("up")  # type: ignore[arg-type]

    assert published("good") == published("neutral") == []


def test_a_missing_topic_fails_no_call(aws: Any, new_manager: NewManager, caplog: pytest.LogCaptureFixture) -> None:
    hook = create_feedback_sns_hook(ARN, ARN, "none", endpoint_url=aws.faulty_url)
    with new_manager(feedback_hook=hook) as manager:
        manager.add_feedback({"rating": "up", "comment": "content"})

    assert "session_id=<s-1>" in caplog.text
    assert "error=<publish: NotFound (HTTP 404)>" in caplog.text
    assert "content" not in caplog.text


def test_one_that_fails_is_lost_and_the_next_is_not(
    aws: Any, hook: Any, published: Any, new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    with new_manager(feedback_hook=hook()) as manager:
        aws.fail({"service": "sns", "times": 1, "error": {"code": "InvalidParameter", "status": 400}})
        manager.add_feedback({"rating": "up", "comment": "1"})
        manager.add_feedback({"rating": "up", "comment": "2"})

    assert [each["Message"][-1] for each in published("good", 1)] == ["2"]
    assert "can never be delivered" in caplog.text


def test_throttling_is_ridden_out(aws: Any, hook: Any, published: Any, new_manager: NewManager) -> None:
    with new_manager(feedback_hook=hook()) as manager:
        aws.fail({"service": "sns", "times": 2, "error": {"code": "Throttling", "status": 400}})
        for number in range(3):
            manager.add_feedback({"rating": "up", "comment": str(number)})

    assert [each["Message"][-1] for each in published("good", 3)] == ["0", "1", "2"]
    assert len(aws.fired()) == 2


# Configuration


def test_is_available() -> None:
    assert is_feedback_sns_hook_available() is True


@pytest.mark.parametrize(
    "arn",
    [
        *(None, "", "feedback", "arn:aws:sqs:eu-west-1:123456789012:q", "arn:aws:sns::123456789012:t", "NONE", 7),
        *("arn:aws:sns:europe:123456789012:t", "arn:aws:sns:eu-west-1:123456789012:", ARN + " ", ARN + ":subscription"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_refuses_what_is_no_topic(arn: Any, place: int) -> None:
    arns: list[Any] = [ARN, "none", ARN]
    arns[place] = arn

    with pytest.raises(ValueError, match=r"topic_arn_(good|bad|neutral)|region"):
        create_feedback_sns_hook(*arns)


@pytest.mark.parametrize(
    "template", ["{unknown}", "{", "{0}", "{}", "{session_id.__class__}", "{rating[0]}", "{rating:{x}}", None, 7]
)
@pytest.mark.parametrize("name", ["subject_prefix_good", "body_prefix_neutral"])
def test_refuses_templates_with_other_fields(template: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        create_feedback_sns_hook(ARN, ARN, ARN, **{name: template})


def test_the_region_comes_from_the_arn() -> None:
    other = "arn:aws-cn:sns:cn-north-1:123456789012:feedback"
    sources = create_feedback_sns_hook(ARN, other, "none")._sources

    assert {arn: source.region for arn, source in sources.items()} == {ARN: "eu-west-1", other: "cn-north-1"}
    assert {source.endpoint_url for source in sources.values()} == {None}


def test_all_ratings_may_be_off(new_manager: NewManager) -> None:
    with new_manager(feedback_hook=create_feedback_sns_hook("none", "none", "none")) as manager:
        manager.add_feedback({"rating": "up"})
        assert len(manager.get_feedbacks()) == 1
