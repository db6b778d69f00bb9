from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from strands.models import Model
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from mongodb_session_manager.testing import ScriptedModel

ROOT = Path(__file__).parents[2]

Namespace: TypeAlias = dict[str, Any]
RunBlocks: TypeAlias = Callable[[str], Namespace]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def database_uri(uri_of: Callable[[str], str], database_name: str) -> str:
    """The server's connection string with the test's own database in it."""
    return uri_of(database_name)


@pytest.fixture
def run_blocks(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> RunBlocks:
    """Run the Python blocks of a page in one namespace, which is returned.

    The blocks find the test's database in MONGODB_URI, and where they make a BedrockModel they get a scripted one.
    """
    monkeypatch.setenv("MONGODB_URI", database_uri)
    monkeypatch.setattr("strands.models.BedrockModel", _scripted_in_place_of_bedrock)

    def run(page: str) -> Namespace:
        document = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT)).parse(ROOT / page)
        for example in document.examples():
            example.evaluate()
        return document.namespace

    return run


def _scripted_in_place_of_bedrock(model_id: str) -> Model:
    return ScriptedModel(default=lambda messages: f"I can see {len(messages)} messages.", model_id=model_id)
