"""The write API. Each resource, such as items or shares, has a file with its routes. `RESOURCES` in `main.py` lists these files.

Responses have three files: `responses.py`, `response_socket.py` and `compact_response.py`. A new command goes into the file of its
resource. A new resource gets a new file and an entry in `RESOURCES`. A route checks the request, makes one command of
`domain/commands.py`, appends it through `command_route.py`, and answers. The rules for commands are in `domain/decide.py`.
"""
