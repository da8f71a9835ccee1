"""Requests to a model: any OpenAI-compatible provider, through the official client.

Importing `provider` loads the official client, which takes a second.
"""
