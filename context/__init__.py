"""What a model is shown of a conversation, and what is known of models.

assembly                          `Contexts`: chooses items within a token budget and renders the request
selection                         which items are shown; pure
history_backwards, _forwards      items read from the log
conversation_settings             instructions, policy, pins and summary at a version
snapshots, snapshot_store, snapshot_from_log   the newest items in Redis: shape, access, making
models, tokens, encodings, item_counts         windows and prices; counting tokens
summaries                         what is summarized, in which portions
rendering, rerender               requests to providers; recorded requests rendered again
"""
