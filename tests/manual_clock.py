"""A monotonic clock that a test moves."""


class ManualClock:
    """Starts at 0 seconds and stands still until the test adds to `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds
