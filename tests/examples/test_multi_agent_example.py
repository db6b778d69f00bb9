"""The example of a Graph and a Swarm that are interrupted in one process and continue in another."""

from tests.examples.test_examples import Output

CALLED = "  the model of {} is called"


def test_multi_agent(output: Output) -> None:
    lines = output("example_multi_agent.py")

    first, second = (number for number, line in enumerate(lines) if line.startswith("process "))
    assert lines[first] != lines[second]
    assert lines[first + 1 : second] == [
        *(CALLED.format(name) for name in ("writer", "desk", "desk", "refunds")),
        "  stored: offer interrupted, {'writer': 'completed'}, ['May the offer be sent?']",
        "  stored: complaint interrupted, {'desk': 'completed', 'refunds': 'interrupted'}, "
        "['May 45 EUR be paid back?']",
    ]
    # What was done before is not done again.
    assert lines[second + 1 :] == [
        *(CALLED.format(name) for name in ("sender", "refunds")),
        "  stored: offer completed, {'writer': 'completed', 'sender': 'completed'}, []",
        "  stored: complaint completed, {'desk': 'completed', 'refunds': 'completed'}, []",
    ]
