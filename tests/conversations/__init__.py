import pytest

NAMES = ("list", "model", "conversation", "path")
CHECKS = [f"tests.conversations.{name}_checks" for name in NAMES]
pytest.register_assert_rewrite(*CHECKS)  # a failed check shows both sides
