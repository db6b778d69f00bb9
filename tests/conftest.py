pytest_plugins = ["mongodb_session_manager.testing.pytest_plugin"]
