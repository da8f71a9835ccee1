"""The write API. Each resource, such as items or shares, has one or several files with its routes. `RESOURCES` in `main.py` lists these
files, except `response_socket.py`, which serves the WebSocket.

A new command goes into a file of its resource. A new resource gets a new file and an entry in `RESOURCES`. Most routes check the
request, make one command of `domain/commands.py`, append it through `command_route.py`, and answer. The rules for commands are in
`domain/decide.py`.
"""
