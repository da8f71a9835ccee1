"""The write API. Each resource has one file with all its routes: conversations, items, pins, compaction, responses, imports.

A new verb goes into its resource's file; a new resource gets a file, and a line in `main.py`. A route checks the request, makes
one command of `domain/commands.py`, appends it through `command_route.py` and answers. What a command may do is decided in
`domain/decide.py`.
"""
