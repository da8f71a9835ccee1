import pytest

pytest.register_assert_rewrite("tests.conversations.model_checks")  # so that a failed check shows both sides
