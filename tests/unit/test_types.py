"""The constants that users compare with."""

from typing import get_args

from strands.types.event_loop import StopReason

from mongodb_session_manager import types


def test_the_stop_reasons_are_those_of_the_sdk() -> None:
    assert types.GUARDRAIL_INTERVENED == "guardrail_intervened"
    assert types.CONTENT_FILTERED == "content_filtered"
    assert {types.GUARDRAIL_INTERVENED, types.CONTENT_FILTERED} == types.GUARDRAIL_STOP_REASONS
    assert set(get_args(StopReason)) >= types.GUARDRAIL_STOP_REASONS
