"""The views' document shapes, and what each event writes into them. Pure. Commands and queries import nothing else of `projections`.

`catalog.py` names the views. `event_writes.py` lists the writes of one event, from `conversations.py`, `items.py`, `responses.py`, `search.py`,
`feedback.py` and `usage.py`. `view_position.py` says how far a view has come.

A document's `_id` is `tenant:id`. Times are integers: microseconds since 1970, UTC. Item bodies are JSON text, exactly as clients
receive them, so a page of items is concatenated and not encoded again.
"""
