"""Connection plugins for tests."""
