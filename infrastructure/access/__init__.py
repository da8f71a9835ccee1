"""Finds out who sends a request: the credential (an API key or a token), and the principal that it stands for."""
