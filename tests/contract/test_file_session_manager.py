"""Calibrates the contract: what it asks for, the SDK's own repository does."""

from pathlib import Path

import pytest
from strands.session import FileSessionManager

from mongodb_session_manager.testing import SessionRepositoryContract


class TestFileSessionManager(SessionRepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> FileSessionManager:
        return FileSessionManager(session_id="owner", storage_dir=str(tmp_path))
