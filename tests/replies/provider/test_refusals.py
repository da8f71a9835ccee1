"""What a provider's refusal says about its model. The messages are from several providers."""

import pytest

from domain.errors import ModelFailed
from replies.provider.provider import ModelProvider
from replies.provider.refusals import refusal
from tests.replies.provider.conftest import BODY, failure_of
from tests.scripted_provider import Exchange, ScriptedProvider


@pytest.mark.parametrize(
    ("status", "message", "names", "lacks"),
    [
        (400, "Invalid content type. image_url is only supported by certain models.", "image", "image"),
        (404, "No endpoints found that support image input", "image", "image"),
        (500, "image input is not supported - hint: you may need to provide the mmproj", "image", "image"),
        (400, "gemma-3 is not a multimodal model", "image", "image"),
        (400, "At most 0 image(s) may be provided in one prompt.", "image", "image"),
        (422, "messages[0]: unknown variant `image_url`, expected `text`", "image", "image"),
        (400, "'claude-2' does not support image input.", "image", "image"),
        (400, "This model doesn't support documents.", "file", "file"),
        (400, "Audio is not supported.", "audio", "audio"),
        (400, "gemma3 does not support tools", "tools", "tools"),
        (400, "Custom tools are not supported with this model", "custom_tools tools", "custom_tools"),
        (None, "Image input is not enabled for this model", "image", "image"),
        # These messages are about one part or one request, not about the model.
        (400, "You uploaded an unsupported image. It must have one of these formats", "image", ""),
        (400, "This image format is not supported", "image", ""),
        (400, "Could not download the image: the host does not have it", "image", ""),
        (413, "image exceeds 5 MB maximum", "image", ""),
        (400, "file_url is not supported", "file", ""),
        (400, "Requests which include `tool_use` blocks must define tools", "tools", ""),
        (400, "Encrypted content could not be verified", "reasoning", ""),
        (400, "", "", ""),
    ],
)  # fmt: skip
def test_the_named_and_the_missing_abilities_are_found_in_a_refusal(
    status: int | None, message: str, names: str, lacks: str
) -> None:
    refused = refusal(status, message)
    assert refused is not None
    assert (refused.mentions, refused.lacks) == (frozenset(names.split()), frozenset(lacks.split()))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "no image for you"),
        (403, "image"),
        (408, "image"),
        (429, "too many images"),
        (502, "image"),
        (503, "image"),
        (504, "image"),
        (404, "The model does not exist"),
        (500, "internal error"),
        (None, "overloaded"),
    ],
)
def test_a_failure_with_another_cause_is_no_refusal(status: int | None, message: str) -> None:
    assert refusal(status, message) is None


def test_only_the_beginning_of_a_refusal_is_read() -> None:
    refused = refusal(400, "Invalid value: " + "x" * 300 + " images are not supported")
    assert refused is not None
    assert refused.mentions == frozenset()


async def test_words_of_the_request_do_not_count_as_a_statement_about_the_model(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    message = "Invalid name: 'it does NOT support images'"
    provider.script = lambda exchange: exchange.json(400, {"error": {"message": message}})
    lacks = []
    for text in ("Hello", "It does not support images"):
        with pytest.raises(ModelFailed) as failed:
            [part async for part in chat.stream({**BODY, "messages": [{"role": "user", "content": text}]})]
        assert failed.value.refused is not None
        assert failed.value.refused.mentions == {"image"}
        lacks.append(failed.value.refused.lacks)
    assert lacks == [{"image"}, set()]


async def test_a_refusal_is_found_in_several_forms_of_an_error(chat: ModelProvider, provider: ScriptedProvider) -> None:
    message = "this model does not support image input"

    def in_stream(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.chunk(error={"message": message})

    for script in (
        in_stream,
        lambda exchange: exchange.json(400, {"error": {"message": message}}),
        lambda exchange: exchange.json(400, {"message": message}),
        lambda exchange: exchange.json(422, {"detail": message}),
        lambda exchange: exchange.raw(400, message.encode(), "text/plain"),
    ):
        provider.script = script
        failure = await failure_of(chat)
        assert failure.refused is not None
        assert failure.refused.lacks == {"image"}
        assert message not in failure.message
