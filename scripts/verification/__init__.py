"""The comparisons of `scripts/verify.py`: of the log with its hash chains; of the other tables, the views and the snapshots with the log."""
