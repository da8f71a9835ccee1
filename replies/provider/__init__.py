"""The model: any OpenAI-compatible provider, asked through the official client. Commands ask it, queries list it.

provider   `Model`, the way to it; the official client takes a second to import: only who asks or lists needs this module
pieces     what an answer is made of, whichever API the provider speaks
chat, responses   the two APIs' streams as pieces; `turns` puts items that come at once one after the other
reading    server-sent events
failures   what goes wrong, in our words; `refusals` tells it from the client's errors; `breaker` stops asking a provider that is down
registry   windows, tokenizers and prices; `listing` what the provider offers
"""
