"""The steps that `scripts/rebuild.py` runs."""
