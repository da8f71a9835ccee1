import pytest

CHECKS = ("tests.conversations.list_checks", "tests.conversations.model_checks")
pytest.register_assert_rewrite(*CHECKS)  # a failed check shows both sides
