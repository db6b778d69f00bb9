import time
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from strands import Agent, tool
from strands.types.content import Messages

from mongodb_session_manager.testing import Redaction, ScriptedModel, ScriptExhaustedError, Turn

SEARCH = {"toolUse": {"toolUseId": "t-1", "name": "search", "input": {"words": "日本"}}}


@tool
def search(words: str) -> str:
    """Search.

    Args:
        words: What to search for.
    """
    return f"found {words}"


def agent_with(model: ScriptedModel, **options: Any) -> Agent:
    return Agent(model=model, callback_handler=None, **options)


def test_says_the_texts_of_its_script() -> None:
    agent = agent_with(ScriptedModel(["Hello.", "Goodbye."]))

    assert [str(agent("Hi")).strip(), str(agent("Bye")).strip()] == ["Hello.", "Goodbye."]
    assert [message["role"] for message in agent.messages] == ["user", "assistant", "user", "assistant"]


def test_uses_tools() -> None:
    model = ScriptedModel([[{"text": "Let me look."}, SEARCH], "Here it is."])
    agent = agent_with(model, tools=[search])

    result = agent("Look for it")

    assert result.stop_reason == "end_turn"
    assert agent.messages[1]["content"] == [{"text": "Let me look."}, SEARCH]
    tool_result = agent.messages[2]["content"][0]["toolResult"]
    assert (tool_result["toolUseId"], tool_result["content"]) == ("t-1", [{"text": "found 日本"}])


def test_one_block_is_a_turn() -> None:
    agent = agent_with(ScriptedModel([SEARCH, {"text": "Done."}]), tools=[search])

    assert str(agent("Look")).strip() == "Done."


def test_reasons() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "Hmm.", "signature": "s"}}}
    hidden = {"reasoningContent": {"redactedContent": b"\x00\x01"}}
    agent = agent_with(ScriptedModel([[thought, {"text": "Yes."}], [hidden, {"text": "No."}]]))

    agent("Think")
    agent("Think again")

    assert agent.messages[1]["content"] == [thought, {"text": "Yes."}]
    assert agent.messages[3]["content"] == [hidden, {"text": "No."}]


def test_a_block_that_no_model_says_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot say"):
        agent_with(ScriptedModel([{"image": {}}]))("Draw")


def test_raises_the_errors_of_its_script() -> None:
    error = ConnectionError("the model is away")
    agent = agent_with(ScriptedModel([error, "I am back."]))

    with pytest.raises(ConnectionError) as caught:
        agent("Hi")

    assert caught.value is error
    assert str(agent("Hi again")).strip() == "I am back."


def test_a_function_sees_the_messages() -> None:
    def answer(messages: Messages) -> Turn:
        return f"You said {messages[-1]['content'][0]['text']}."

    assert str(agent_with(ScriptedModel(default=answer))("yes")).strip() == "You said yes."


def test_records_the_messages_as_they_were() -> None:
    model = ScriptedModel(["Hello.", "Goodbye."])
    agent = agent_with(model)
    agent("Hi")
    agent.messages[0]["content"][0]["text"] = "changed"
    agent("Bye")

    first, second = model.calls
    assert first == [{"role": "user", "content": [{"text": "Hi"}]}]
    assert [message["content"][0]["text"] for message in second] == ["changed", "Hello.", "Bye"]


def test_says_when_its_script_is_over() -> None:
    agent = agent_with(ScriptedModel(["Hello."]))
    agent("Hi")

    with pytest.raises(ScriptExhaustedError, match="called 2 times, but its script has 1 turns"):
        agent("Bye")


def test_can_begin_again() -> None:
    agent = agent_with(ScriptedModel(["one", "two"], cycle=True))

    assert [str(agent("next")).strip() for _ in range(5)] == ["one", "two", "one", "two", "one"]


def test_a_cycle_needs_turns() -> None:
    with pytest.raises(ValueError, match="turns"):
        ScriptedModel(cycle=True)


def test_can_go_on_with_a_default() -> None:
    agent = agent_with(ScriptedModel(["one"], default="more"))

    assert [str(agent("next")).strip() for _ in range(3)] == ["one", "more", "more"]


def test_reports_usage_and_time() -> None:
    usage = {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120, "cacheReadInputTokens": 7}
    agent = agent_with(ScriptedModel(["Hello."], latency_ms=30, usage=usage))  # type: ignore[arg-type]

    start = time.monotonic()
    agent("Hi")

    assert time.monotonic() - start >= 0.03
    metadata = agent.messages[-1]["metadata"]
    assert metadata["usage"] == usage
    assert metadata["metrics"]["latencyMs"] == 30
    assert metadata["metrics"]["timeToFirstByteMs"] >= 29


@pytest.mark.parametrize(
    ("redaction", "user", "assistant"),
    [
        (Redaction(), "[User input redacted.]", "Blocked by the guardrail."),
        (Redaction("[no]", "[nothing]"), "[no]", "[nothing]"),
        (Redaction(None, "[nothing]"), "secret", "[nothing]"),
        (Redaction(None, None, "I would rather not."), "secret", "I would rather not."),
    ],
)
def test_a_guardrail_redacts(redaction: Redaction, user: str, assistant: str) -> None:
    agent = agent_with(ScriptedModel([redaction]))

    result = agent("secret")

    assert result.stop_reason == "guardrail_intervened"
    assert [message["content"] for message in agent.messages] == [[{"text": user}], [{"text": assistant}]]
    assert agent.messages[-1]["metadata"]["usage"]["totalTokens"] == 15


def test_has_a_configuration() -> None:
    model = ScriptedModel(["Hello."], model_id="m-1", context_window_limit=1000)

    model.update_config(model_id="m-2", temperature=0)

    assert model.config["model_id"] == "m-2"
    assert model.get_config() == {"model_id": "m-2", "context_window_limit": 1000, "temperature": 0}
    assert model.context_window_limit == 1000


class Weather(BaseModel):
    city: str
    degrees: int


async def test_gives_structured_output() -> None:
    model = ScriptedModel([{"city": "Köln", "degrees": 7}, Weather(city="Bonn", degrees=8), "warm"])

    for city in ("Köln", "Bonn"):
        (event,) = [event async for event in model.structured_output(Weather, [])]
        assert event["output"].city == city
    with pytest.raises(ValidationError):
        _ = [event async for event in model.structured_output(Weather, [])]
    assert len(model.calls) == 3


def test_gives_structured_output_through_the_agents_tool() -> None:
    data = {"city": "Köln", "degrees": 7}
    call = {"toolUse": {"toolUseId": "t-1", "name": "Weather", "input": data}}

    result = agent_with(ScriptedModel([call]))("How is it?", structured_output_model=Weather)

    assert result.structured_output == Weather(city="Köln", degrees=7)
