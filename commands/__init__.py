"""The write API. Each resource has a file with its routes: conversations, items, pins, compaction, responses (two files), imports.

A new command goes into its resource's file; a new resource gets a file, and an entry in `RESOURCES` in `main.py`. A route checks the request, makes
one command of `domain/commands.py`, appends it through `command_route.py` and answers. What a command may do is decided in
`domain/decide.py`.
"""
