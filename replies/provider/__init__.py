"""Requests to a model: any OpenAI-compatible provider, through the official client.

provider            `ModelProvider`, which sends requests and lists models; importing it loads the official client, which takes a second
stream_parts        what a streamed answer consists of, whichever API the provider speaks
chat, responses     turn the streams of the two APIs into stream parts; `response_items` and `ordered_items` help them
server_sent_events  reads events from bytes
failures            our errors for what goes wrong; `client_errors` turns the clients' errors into them
breaker             stops requests to a provider that is down
model_list          the models that the provider lists
"""
