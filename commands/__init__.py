"""The write side: a file a verb, each with its request, its route and its handler. What is decided, `domain` says."""
