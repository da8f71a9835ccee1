"""What a model is shown of a conversation, and what is known of models.

assembly                          `Contexts`: finds the newest items, chooses those that fit, renders the request
choice, selection                 counts and budget; which items are shown (pure)
recorded_selection                what an event records of a selection
history_backwards, _forwards      items read from the log
path_backwards, segment_pages     a path is read page by page; the path of a fork goes on in its origin
branch_paths, forks               which branches a path takes; what a conversation was forked from
path_history, repeated_history    the items that a request's input is compared with; the input's items that only repeat the path
conversation_settings             instructions, policy, pins and summary at a version
summary_changes                   which summary of a path is active; what undo and redo change
snapshots, snapshot_store         the newest items in Redis: their shape; reading and writing
snapshot_from_log, moved_snapshot making a snapshot; changing one when the head is moved
stored_items, pinned_items        an item as an event holds it; pinned items, wherever they are on the path
deleted_content, withdrawn_summaries, copies   what is deleted now; summaries of deleted items; every place that holds content
noted_items                       items that are sent with a note in place of what a model cannot take
models, listed_models, model_prices, learnt_models   windows, abilities and prices: from MODELS, the provider, genai-prices, and what was learnt
tokens, encodings, item_tokens, item_counts, message_counts   counting tokens
summaries                         what is summarized, in which portions
last_requests, sent_sequence      the last request to each model; what a new request has in common with it
rendering, rerender               requests to providers; recorded requests rendered again
last_shown                        what the model was shown last for a reply
transcripts                       Chat Completions: which conversation a transcript continues
"""
