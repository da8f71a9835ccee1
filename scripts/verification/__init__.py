"""The comparisons of `scripts/verify.py`.

They check the hash chains of the log, and compare the other tables, the views and the snapshots with the log.
"""
