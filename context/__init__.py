"""What a model is shown of a conversation, and what is known of models."""
