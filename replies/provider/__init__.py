"""Requests to a model: any OpenAI-compatible provider, through the official client.

provider            `Provider`, which sends requests and lists models; importing it loads the official client, which takes a second
stream_parts        what a streamed answer consists of, whichever API the provider speaks
chat, responses     turn the streams of the two APIs into stream parts; `response_items` and `ordered_items` help them
server_sent_events  reads events from bytes
failures            what goes wrong with a provider; `client_errors` maps the clients' errors to it
breaker             stops requests to a provider that is down
model_list          the models that the provider lists
"""
