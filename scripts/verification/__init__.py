"""What `scripts/verify.py` does: the log against its own chain, the views and the snapshots against the log."""
