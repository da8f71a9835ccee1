"""Requests to a model: any OpenAI-compatible provider, through the official client.

provider            `ModelProvider`, which sends requests and lists models; importing it loads the official client, which takes a second
stream_parts        the parts of a streamed answer, the same for both APIs
chat, responses     turn the streams of the two APIs into stream parts; both use `ordered_items`, and `responses` also `response_items`
server_sent_events  reads events from bytes
json_text           reads JSON from a provider and replaces what cannot be stored
failures            our own errors; `client_errors` turns the errors of the client libraries into them
refusals, too_long  what a provider's refusal says: which abilities the model lacks; that the request is too long
breaker             stops requests to a provider that is down
model_list          the models that the provider lists
"""
