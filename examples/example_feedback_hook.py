"""Feedback on a conversation and on its messages, with a check before it is stored and an alarm afterwards.

Run it as it is: it needs no account and no network.
"""

import asyncio
from typing import Any
from uuid import uuid4

from strands import Agent

from mongodb_session_manager import MessageNotFoundError, MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb


def check_rating(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
    """Refuse ratings that the reports do not know."""
    rating = kwargs["feedback"].get("rating")
    if rating not in ("up", "down", None):
        raise ValueError(f"rating must be 'up', 'down' or None, got {rating!r}")
    return original_func()


async def raise_alarm(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
    """After bad feedback was stored, page a person, with the answer that the feedback is about."""
    result = await original_func()
    feedback, manager = kwargs["feedback"], kwargs["session_manager"]
    if feedback.get("rating") == "down" and "message_id" in feedback:
        messages = {message["message_id"]: message for message in await manager.alist_messages(feedback["agent_id"])}
        answer = messages[feedback["message_id"]]["content"][0]["text"]
        await send_to_pager(f"{feedback['comment']!r} on {answer!r}")
    return result


async def send_to_pager(text: str) -> None:
    await asyncio.sleep(0)  # for example an HTTP request
    print(f"pager:  {text}")


def main() -> None:
    with (
        running_mongodb() as uri,
        # The first hook is the outermost: what it refuses is not stored, and raises no alarm.
        MongoDBSessionManager(f"feedback-{uuid4()}", uri, feedback_hook=[check_rating, raise_alarm]) as manager,
    ):
        model = ScriptedModel(["It is 20 kg.", "Your suitcase may weigh 50 kg."])
        agent = Agent(model=model, agent_id="airline", session_manager=manager, callback_handler=None)
        agent("How much baggage may I take?")
        agent("And my suitcase?")
        answer = manager.list_messages("airline")[-1]

        # Feedback on the whole conversation, and on one answer. The message must exist.
        manager.add_feedback({"rating": "up", "comment": "Quick", "channel": "web"})
        about = {"agent_id": "airline", "message_id": answer["message_id"]}
        manager.add_feedback({"rating": "down", "comment": "That is wrong", **about})

        for wrong in ({"rating": "five stars"}, {"rating": "up", "agent_id": "airline", "message_id": 99}):
            try:
                manager.add_feedback(wrong)
            except MessageNotFoundError as error:
                print(f"stale:  there is no message {error.message}")
            except ValueError as error:
                print(f"check:  {error}")

        # In a coroutine: the same, off the event loop.
        asyncio.run(manager.aadd_feedback({"rating": None, "comment": "No opinion"}))

        for feedback in manager.get_feedbacks():
            print(f"stored: {feedback['rating']}, {feedback['comment']}, {feedback['created_at']:%Z}")
        manager.delete_session()


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
