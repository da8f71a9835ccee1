"""The views' document shapes, and what each event writes into them. Pure.

A document's `_id` is `tenant:id`. Times are microseconds since 1970, UTC. Item bodies are JSON text as clients receive
it, so a page of items is not encoded again.
"""
