"""What `scripts/verify.py` compares: the log with its hash chain; the tables beside it, the views and the snapshots with the log."""
