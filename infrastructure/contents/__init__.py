"""Contents of files: stored once per tenant under their SHA-256, apart from the events that name them."""
