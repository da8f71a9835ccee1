"""Recognises the transcript (all messages) of a Chat Completions request, so that its history is stored once.

chat_messages   messages of the Chat Completions API to items and back (pure)
message_changes how a message that was sent differs from the message that is made of its items (pure)
prefix_hashes   the hashes of a transcript's prefixes and turns (pure)
known_messages  keeps the hashes of recent messages
parsed          a request's messages as items, with the hash of each prefix
path_messages   the messages of a path, which a transcript is compared with
rewritten       says whether the client wrote a message of the path differently (pure)
matching        finds the item of the log after which a transcript continues
record          what an event records of a transcript (pure)
rendered        the messages of a recorded transcript, made again from the log
"""
