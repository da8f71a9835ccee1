"""The write API. Each resource has a file with its routes: conversations, items, pins, shares, compaction, responses, imports, keys.

Responses have three files: `responses.py`, `response_socket.py` and `compact_response.py`. A new command goes into the file of its
resource. A new resource gets a new file and an entry in `RESOURCES` in `main.py`. A route checks the request, makes one command of
`domain/commands.py`, appends it through `command_route.py`, and answers. The rules for commands are in `domain/decide.py`.
"""
