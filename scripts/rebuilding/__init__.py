"""What `scripts/rebuild.py` does."""
