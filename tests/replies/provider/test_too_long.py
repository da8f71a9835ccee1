"""Refusals of too long requests are recognised in the words of many providers. A refusal may name the window."""

import pytest

from replies.provider.failures import error_fields, error_object
from replies.provider.too_long import is_too_long, window_of

REFUSALS: list[tuple[object, int | None]] = [
    # OpenAI, Chat Completions and Responses
    ({"error": {"code": "context_length_exceeded", "message": "too long"}}, None),
    (
        {
            "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9200 tokens."
        },
        8_192,
    ),
    ({"message": "Your input exceeds the context window of this model. Please adjust your input and try again."}, None),
    # vLLM
    (
        {
            "message": "You passed 5001 input tokens and requested 0 output tokens. However, the model's context length is only 4096 tokens, "
            "resulting in a maximum input length of 4096 tokens. Please reduce the length of the input prompt.",
            "type": "BadRequestError",
            "code": 400,
        },
        4_096,
    ),
    (
        {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that"},
        4_096,
    ),
    (
        {
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is 32768 tokens and "
            "your request has 1200 input tokens (32000 > 32768 - 1200)."
        },
        32_768,
    ),
    # llama.cpp, and Ollama where its runner is llama.cpp
    (
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5_000,
                "n_ctx": 4_096,
            }
        },
        4_096,
    ),
    ({"message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"}, 4_096),
    ({"error": {"message": "the input length exceeds the context length"}}, None),
    # LM Studio
    (
        {
            "error": "Trying to keep the first 6269 tokens when context the overflows. However, the model is loaded with context length of only "
            "4096 tokens, which is not enough."
        },
        4_096,
    ),
    # Anthropic
    ({"type": "error", "error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}, 200_000),
    (
        {
            "message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length"
        },
        200_000,
    ),
    # Gemini
    (
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1300000) exceeds the maximum number of tokens allowed (1048575).",
                }
            }
        ],
        1_048_575,
    ),
    (
        [{"error": {"message": "The input token count exceeds the maximum number of tokens allowed 1048576."}}],
        1_048_576,
    ),
    # OpenRouter
    (
        {
            "message": "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens"
        },
        131_072,
    ),
    # xAI, Mistral, Groq, Cohere, SGLang, Moonshot, Bedrock, MiniMax, GitHub, TGI
    ({"message": "This model's maximum prompt length is 131072 but the request contains 150000 tokens."}, 131_072),
    ({"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}, 32_768),
    ({"message": "Please reduce the length of the messages or completion."}, None),
    ({"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000"}, 4_081),
    ({"message": "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens)."}, 4_096),
    ({"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}, 4_096),
    ({"message": "Your request exceeded model token limit: 8192"}, 8_192),
    ({"message": "Input is too long for requested model."}, None),
    ({"message": "invalid params, context window exceeds limit (2013)"}, None),
    ({"message": "Request body too large for gpt-4o model. Max size: 8000 tokens."}, 8_000),
    ({"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000"}, 4_097),
    # numbers that cannot be the size of a window
    ({"message": "This model's maximum context length is 0 tokens"}, None),
    ({"code": "context_length_exceeded", "n_ctx": -5}, None),
    ({"code": "context_length_exceeded", "n_ctx": "4096"}, None),
    ({"message": "This model's maximum context length is 99999999999999999999999 tokens"}, None),
]

OTHER_REFUSALS = [
    {"message": "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Requested 50000"},
    {"message": "max_tokens: 200000 > 64000, which is the maximum allowed number of output tokens"},
    {"message": "Invalid value for max_tokens: maximum is 4096"},
    {"message": "image_url is not supported by this model"},
    {"message": None},
    {"error": None},
    {"error": [1]},
    ["no object"],
    "text",
    7,
    None,
]


@pytest.mark.parametrize(("body", "window"), REFUSALS)
def test_a_refusal_of_a_too_long_request_is_recognised(body: object, window: int | None) -> None:
    error = error_object(body)
    assert is_too_long(*error_fields(error))
    assert window_of(error) == window


@pytest.mark.parametrize("body", OTHER_REFUSALS)
def test_a_refusal_for_another_reason_is_not_recognised_as_too_long(body: object) -> None:
    assert not is_too_long(*error_fields(error_object(body)))
