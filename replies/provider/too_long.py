"""Recognises the refusal of a request that is longer than the model's window."""

import re
from typing import Any, Final

MAX_WINDOW: Final = 2**31 - 1

_CODES: Final = ("context_length_exceeded", "exceed_context_size_error", "model_context_window_exceeded")

_N: Final = r"\(?(\d[\d,_]*)"
"""A number of tokens, perhaps in brackets, perhaps with separators."""

_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # OpenAI, vLLM, DeepSeek, OpenRouter: This model's maximum context length is 8192 tokens. Azure and SGLang: model's maximum context length (8192)
        rf"maximum context length (?:is |of )?{_N}",
        # Mistral: too large for model with 32768 maximum context length
        rf"model with {_N} maximum context length",
        # vLLM: the model's context length is only 4096 tokens. LM Studio: loaded with context length of only 4096 tokens
        rf"context length (?:is|of) only {_N}",
        # vLLM: longer than the maximum model length of 4096
        rf"maximum model length of {_N}",
        # SGLang: longer than the model's context length (4096 tokens), exceeds the maximum allowed length (4096 tokens)
        rf"(?:context length|maximum allowed (?:input )?length|allowed input length)(?: of)? {_N}",
        # llama.cpp, Ollama: request (5000 tokens) exceeds the available context size (4096 tokens)
        rf"available context size {_N}",
        # Anthropic: prompt is too long: 210000 tokens > 200000 maximum
        rf"\d+ tokens > {_N} maximum",
        # Anthropic: input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000
        rf"exceed context limit: \d+ \+ \d+ > {_N}",
        # Gemini: exceeds the maximum number of tokens allowed (1048576)
        rf"maximum number of tokens allowed {_N}",
        # xAI: This model's maximum prompt length is 131072 but the request contains 150000 tokens
        rf"maximum prompt length is {_N}",
        # Moonshot: Your request exceeded model token limit: 131072
        rf"model token limit: {_N}",
        # Cohere: total number of tokens in the prompt cannot exceed 4081
        rf"tokens in the prompt cannot exceed {_N}",
        # GitHub: Request body too large for gpt-4o model. Max size: 8000 tokens. Copilot: prompt token count of 9000 exceeds the limit of 8192
        rf"max size: {_N} tokens|token count of \d+ exceeds the limit of {_N}",
        # TGI, Together: `inputs` tokens + `max_new_tokens` must be <= 4097
        rf"max_new_tokens` must be <= {_N}",
    )
)

_WITHOUT_NUMBER: Final = re.compile(
    r"exceeds? (?:the |this model's )?(?:available )?context (?:window|size|length)|context window exceeds limit|prompt (?:is )?too long"
    r"|input is too long for|input token count.* exceeds|reduce the length of (?:the messages|the input|either one|your prompt)"
    r"|maximum context length|context size has been exceeded|greater than the context length|too large for model with|input length exceeds",
    re.IGNORECASE,
)

_OTHER_LIMITS: Final = re.compile(r"rate limit|per minute|quota", re.IGNORECASE)
"""Such a message does not say that the request is too long."""


def is_too_long(code: str, error_type: str, message: str) -> bool:
    if code in _CODES or error_type in _CODES:
        return True
    if _OTHER_LIMITS.search(message):
        return False
    return _WITHOUT_NUMBER.search(message) is not None or window_in(message) is not None


def window_in(message: str) -> int | None:
    """The window that a message names, in tokens."""
    for pattern in _PATTERNS:
        if match := pattern.search(message):
            return _tokens(next(group for group in match.groups() if group))
    return None


def window_of(error: Any) -> int | None:
    """The window that an error names, in tokens. llama.cpp names the window in the field `n_ctx`."""
    fields = error if isinstance(error, dict) else {}
    n_ctx = fields.get("n_ctx")
    return n_ctx if type(n_ctx) is int and 0 < n_ctx <= MAX_WINDOW else window_in(str(fields.get("message") or ""))


def _tokens(text: str) -> int | None:
    tokens = int(re.sub("[,_]", "", text)[:12])
    return tokens if 0 < tokens <= MAX_WINDOW else None
