"""Processes of their own, begun as copies of one that has imported everything."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")


def warm_up(*modules: str) -> None:
    """Start the process that is copied, if it does not run yet; it imports modules ahead."""
    CONTEXT.set_forkserver_preload(["__main__", *modules])
    former = os.environ.get("PYTHONPATH")
    # It does not get to know our sys.path otherwise, and imports nothing ahead then.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if former is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = former
