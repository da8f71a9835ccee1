"""The estimated size of a request for a reply is close to the size of its event."""

import pytest

from domain.commands import RequestReply
from domain.decide import decide
from domain.events import InputItem, Transcript, TranscriptPart
from infrastructure.event_log.codec import decoded_size, encode
from infrastructure.event_log.command_size import command_bytes
from tests.domain.specification import CONVERSATION, given, started
from tests.queries.writer import SHOWN

TEXT = b'{"content":"' + b"x" * 10_000 + b'"}'
IDS = tuple(f"msg_{number:032x}" for number in range(1_000))


@pytest.mark.parametrize(
    "transcript",
    [
        None,
        Transcript(instructions=(TEXT, TEXT)),
        Transcript(parts=(TranscriptPart(message=TEXT), TranscriptPart(items=IDS[:2], changes=TEXT))),
        Transcript(parts=(TranscriptPart(items=IDS),)),
    ],
)
def test_the_estimate_includes_the_input_and_the_transcript(transcript: Transcript | None) -> None:
    command = RequestReply(
        response_id="resp_1",
        model="m",
        parameters=TEXT,
        input=tuple(InputItem(item_id=item_id, item=TEXT) for item_id in IDS[:3]),
        shown=SHOWN,
        transcript=transcript,
    )
    [event] = decide(CONVERSATION, given(started()).state, command, {})
    assert 0.9 < command_bytes(command) / decoded_size(encode(event)) < 1.1
