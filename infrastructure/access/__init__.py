"""Who sends a request: the credential, and the principal that it stands for."""
