"""The parameters of a request for a reply that are objects."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from commands.bodies import Body
from infrastructure.http.errors import ApiError

ShortText = Annotated[str, StringConstraints(max_length=512)]
ServiceTier = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class _OpenBody(BaseModel):
    """An object whose known fields are checked. Fields that the store does not know are kept for the provider."""

    model_config = ConfigDict(strict=True, extra="allow")


class Reasoning(_OpenBody):
    effort: ShortText | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: ShortText | None = None


class Text(_OpenBody):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(Body):
    """`include_usage` comes from the Chat Completions API. It is accepted, but the last event always has the usage."""

    include_obfuscation: bool | None = None
    include_usage: bool | None = None


class PromptCacheOptions(Body):
    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None
    comparison_response_id: ShortText | None = None
    prewarm: bool | None = None


class BackgroundOptions(Body):
    """`continuation_id` is only recorded: the store runs the reply itself, and sends the provider an ordinary request."""

    completion_window: Literal["soonest", "2h", "8h"] | None = None
    continuation_id: ShortText | None = None


class ModerationMode(Body):
    mode: Literal["score", "block"]


class ModerationPolicy(Body):
    input: ModerationMode | None = None
    output: ModerationMode | None = None


class Moderation(Body):
    model: ShortText
    policy: ModerationPolicy | None = None


class AccessPrograms(Body):
    cyber: Literal["standard", "daybreak_blue", "daybreak_red"] | None = None


class ImageOptions(Body):
    context_compression: Literal["auto", "enabled", "disabled"] | None = None


class OptionsBody(Body):
    """The parameters that are objects, and `generate`. `generate: false` and `prompt_cache_options.prewarm` ask for no answer, so they are refused."""

    reasoning: Reasoning | None = None
    text: Text | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    background_options: BackgroundOptions | None = None
    moderation: Moderation | None = None
    access_programs: AccessPrograms | None = None
    image: ImageOptions | None = None
    client_metadata: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    generate: bool | None = None

    def check_options(self) -> None:
        """Raises ApiError (400) for the first value that is not supported."""
        for is_asked, param, problem in (
            (self.generate is False, "generate", "every request gets an answer"),
            (
                self.prompt_cache_options and self.prompt_cache_options.prewarm,
                "prompt_cache_options.prewarm",
                "every request gets an answer",
            ),
            (
                self.background_options and self.background_options.completion_window in ("2h", "8h"),
                "background_options.completion_window",
                "a reply always starts at once",
            ),
            *(
                (self._blocks(side), f"moderation.policy.{side}.mode", "the store does not block what is asked or said")
                for side in ("input", "output")
            ),
        ):
            if is_asked:
                message = f"This value of `{param}` is not supported: {problem}."
                raise ApiError(400, message, code="unsupported_parameter", param=param)

    def _blocks(self, side: str) -> bool:
        policy = self.moderation.policy if self.moderation else None
        moderation: ModerationMode | None = getattr(policy, side, None)
        return moderation is not None and moderation.mode == "block"
