"""Processes of their own, begun as copies of one that has imported everything."""

import multiprocessing
import os
import sys

# The fork server does not get to know our sys.path otherwise, and imports nothing ahead then.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["contenders"])
