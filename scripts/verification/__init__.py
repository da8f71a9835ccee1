"""The comparisons of `scripts/verify.py`."""
