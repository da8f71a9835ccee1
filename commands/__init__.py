"""The write API. `RESOURCES` in `main.py` lists its files with routes.

Most routes check the request, make one command of `domain/commands.py`, append it, and answer.
"""
