"""What is mixed up when hooks are made or passed is told at once, and not by a message that never arrives."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import boto3  # type: ignore[import-untyped]
import pytest
from pymongo import MongoClient

from mongodb_session_manager import (
    MongoDBSessionManagerFactory,
    create_feedback_sns_hook,
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
)
from tests.aliases import Client, NewManager

REGION = "eu-west-1"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:bad"
QUEUE = f"https://sqs.{REGION}.amazonaws.com/123456789012/changes"
GATEWAY = f"https://abc.execute-api.{REGION}.amazonaws.com/prod"

Make = Callable[..., Any]
MAKES: dict[str, Make] = {
    "sns": lambda client: create_feedback_sns_hook("none", TOPIC, "none", client=client),
    "sqs": lambda client: create_metadata_sqs_hook(QUEUE, client=client),
    "apigatewaymanagementapi": lambda client: create_metadata_websocket_hook(GATEWAY, client=client),
}
OPERATIONS = {"sns": "publish", "sqs": "send_message", "apigatewaymanagementapi": "post_to_connection"}
every_service = pytest.mark.parametrize("service", MAKES)


@pytest.fixture
def session() -> Any:
    return boto3.session.Session("testing", "testing", region_name=REGION)


@every_service
def test_the_client_of_another_service(service: str, session: Any) -> None:
    for other in MAKES:
        if other == service:
            MAKES[service](session.client(other))
            continue
        with pytest.raises(TypeError, match=rf"client of {service}, or a boto3 session, got botocore\.client\."):
            MAKES[service](session.client(other))


@every_service
def test_what_is_no_client(service: str, observer: MongoClient[dict[str, Any]]) -> None:
    for given in (observer, observer["db"], observer["db"]["c"], REGION, 5, {}, object(), boto3.session.Session):
        with pytest.raises(TypeError, match=f"client must be a boto3 client of {service}"):
            MAKES[service](given)


@every_service
def test_stand_ins_are_clients(service: str) -> None:
    for given in (MagicMock(), SimpleNamespace(**{OPERATIONS[service]: print})):
        MAKES[service](given)


def test_a_hook_that_was_passed_as_the_other_one(
    new_manager: NewManager, mongo_client: Client, session: Any, stored: Callable[[], Any]
) -> None:
    hooks = {name: make(session) for name, make in MAKES.items()}
    for name, argument, right in (
        ("sns", "metadata_hook", "feedback_hook"),
        ("sqs", "feedback_hook", "metadata_hook"),
        ("apigatewaymanagementapi", "feedback_hook", "metadata_hook"),
    ):
        given: Any = {argument: [hooks[name]]}
        with pytest.raises(TypeError, match=f"pass it as {right}="):
            new_manager(**given)
        with pytest.raises(TypeError, match=f"pass it as {right}="):
            MongoDBSessionManagerFactory(client=mongo_client, **given)

    assert stored() is None
