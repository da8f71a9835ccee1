"""What `scripts/verify.py` compares: the log with its hash chain, the views and the snapshots with the log."""
