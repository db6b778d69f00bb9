"""Work in steps, off the event loop."""

import asyncio
import threading
from concurrent.futures import Future

from mongodb_session_manager._client.off_loop import Steps, go_through_off_loop


def test_steps_continue_if_their_loop_is_closed_meanwhile() -> None:
    step: Future[None] = Future()
    ended: list[str] = []
    told = threading.Event()

    def steps() -> Steps:
        yield [step], None
        ended.append(threading.current_thread().name)
        told.set()

    loop = asyncio.new_event_loop()
    task = loop.create_task(go_through_off_loop(steps()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    step.set_result(None)

    assert told.wait(5)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    assert ended == ["mongodb-session-manager-call"]
