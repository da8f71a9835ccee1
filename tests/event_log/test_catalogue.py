"""The event catalogue is frozen: topics, field names and stored bytes never change."""

import pytest

from domain.events import (
    BY_TOPIC,
    EVENTS,
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ContextPolicy,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationShared,
    ConversationStarted,
    ConversationUnshared,
    Event,
    FeedbackGiven,
    FeedbackWithdrawn,
    Fork,
    HeadMoved,
    InheritedSummary,
    InputItem,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    Leaf,
    LeftOut,
    PathBranch,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyDescribed,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    ReplyShown,
    SentSequence,
    SequencePoint,
    Share,
    SharedPrefix,
    Shown,
    ShownRange,
    Timing,
    Transcript,
    TranscriptBase,
    TranscriptPart,
    Usage,
)
from infrastructure.event_log.codec import UnreadableEvent, decode, encode

EXAMPLES: tuple[Event, ...] = (
    ConversationStarted(
        conversation_id="conv_1",
        tenant="acme",
        owner="ann",
        family="conv_0",
        title="T",
        instructions="I",
        metadata={"k": "v"},
        context_policy=ContextPolicy(budget=1, reserve=2),
        listed=False,
        forked_from=Fork(conversation_id="conv_0", item_id="msg_0", version=3),
    ),
    ConversationDescribed(title=None, instructions="I", metadata={}, context_policy=ContextPolicy()),
    ItemAppended(
        item_id="msg_1",
        parent_id="msg_0",
        branch=1,
        depth=2,
        item=b'{"role":"user"}',
        author="ann",
        revises="msg_9",
        response_id="resp_1",
    ),
    ItemRetracted(item_id="msg_1", branch=0, depth=2),
    ItemRestored(item_id="msg_1", branch=0, depth=2),
    ItemPinned(item_id="msg_1", branch=0, depth=2, pinned=("msg_0", "msg_1")),
    ItemUnpinned(item_id="msg_1", pinned=("msg_0",)),
    HeadMoved(item_id="msg_1", depth=2, path=(PathBranch(0, 1, 2), PathBranch(5))),
    ReplyQueued(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(InputItem(item_id="msg_1", item=b"{}"),),
        renderer=1,
    ),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(InputItem(item_id="msg_1", item=b"{}"),),
        shown=Shown(
            version=4,
            ranges=(ShownRange(first="msg_1", last="msg_2", count=2, tokens=9),),
            budget=100,
            tokens=12,
            encoding="o200k_base",
            renderer=1,
            request_sha256=b"\x01\x02",
            summary="s",
        ),
    ),
    ReplyShown(
        response_id="resp_1",
        model="m",
        shown=Shown(version=5, ranges=(), budget=9, tokens=8, encoding="e", renderer=4, request_sha256=b"\x03"),
        reason="window",
    ),
    ReplyCompleted(
        response_id="resp_1",
        model="m",
        input_ids=("msg_1",),
        output_ids=("msg_2",),
        usage=Usage(input_tokens=1, output_tokens=2, cached_tokens=3, reasoning_tokens=4),
        finish_reason="stop",
        timing=Timing(first_ms=5, total_ms=6),
        delta_lengths=(1, 2),
    ),
    ReplyFailed(response_id="resp_1", code="c", message="m", partial_output="p"),
    ReplyCancelled(response_id="resp_1", output=(InputItem(item_id="msg_1", item=b"{}"),), delta_lengths=(1, 2)),
    ReplyInterrupted(
        response_id="resp_1", code="c", output=(InputItem(item_id="msg_1", item=b"{}"),), delta_lengths=(1, 2)
    ),
    ReplyDeleted(response_id="resp_1"),
    ReplyDescribed(response_id="resp_1", metadata={"k": "v"}),
    ContextCompacted(
        compaction_id="cmp_1",
        summary="s",
        first="msg_1",
        last="msg_2",
        depth=2,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
        replaces=3,
    ),
    CompactionUndone(active=3),
    CompactionRedone(active=4),
    FeedbackGiven(
        feedback_id="feedback_1", by="ann", rating=1, item_id="msg_1", labels=("l",), comment="c", previous=-1
    ),
    FeedbackWithdrawn(feedback_id="feedback_1", by="ann", rating=1, item_id="msg_1"),
    ConversationShared(shares=(Share(subject="bob", role="writer"), Share(role="reader"))),
    ConversationUnshared(shares=(Share(role="reader"),)),
    ConversationEnded(reason="r"),
    ConversationReopened(),
    ConversationDeleted(),
)

EXTENDED: tuple[Event, ...] = (
    ConversationStarted(
        conversation_id="conv_1",
        tenant="acme",
        owner="ann",
        family="conv_0",
        context_policy=ContextPolicy(strategy="rolling_summary"),
        forked_from=Fork(conversation_id="conv_0", item_id="msg_0", version=3, depth=4),
    ),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(),
        shown=Shown(
            version=4,
            ranges=(),
            budget=100,
            tokens=12,
            encoding="o200k_base",
            renderer=2,
            request_sha256=b"\x01\x02",
            left_out=(LeftOut(reason="budget", first="msg_1", last="msg_2", count=2),),
        ),
    ),
    ReplyCompleted(
        response_id="resp_1",
        model="m",
        input_ids=(),
        output_ids=(),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=5, total_ms=6),
        cost=7,
    ),
    ReplyFailed(
        response_id="resp_1",
        code="c",
        message="m",
        output=(InputItem(item_id="msg_1", item=b"{}"),),
        delta_lengths=(1, 2),
    ),
    ReplyCompleted(
        response_id="resp_1",
        model="m",
        input_ids=(),
        output_ids=(),
        usage=Usage(cache_write_tokens=8),
        finish_reason="stop",
        timing=Timing(first_ms=5, total_ms=6),
        service_tier="default",
    ),
    ItemAppended(item_id="msg_1", parent_id=None, branch=0, depth=1, item=b"{}", author="ann", copy_of="msg_0"),
    ReplyCancelled(response_id="resp_1", output=(InputItem(item_id="msg_1", item=b"{}", copy_of="msg_0"),)),
    ContextCompacted(
        compaction_id="cmp_1",
        summary="s",
        first="msg_1",
        last="msg_2",
        depth=2,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
        read_position=5,
        originals=("msg_0",),
    ),
    ConversationDescribed(listed=True),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(),
        shown=Shown(version=4, ranges=(), budget=100, tokens=12, encoding="e", renderer=6, request_sha256=b"\x01"),
        transcript=Transcript(
            instructions=(b'{"role":"system"}',),
            base=TranscriptBase(conversation_id="conv_0", response_id="resp_0", count=2),
            parts=(
                TranscriptPart(items=("msg_1", "fc_1"), changes=b"{}"),
                TranscriptPart(message=b'{"role":"user"}'),
            ),
        ),
    ),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(),
        shown=Shown(
            version=4,
            ranges=(),
            budget=100,
            tokens=12,
            encoding="e",
            renderer=4,
            request_sha256=b"\x01",
            sequence=SentSequence(
                depth=8,
                first_depth=3,
                settings=b"\x02",
                points=(SequencePoint(2, 5, b"\x03"), SequencePoint(4, 12, b"\x04")),
                summary=b"\x05",
            ),
            shared_prefix=SharedPrefix(tokens=5, messages=1, reason="input_changed"),
        ),
    ),
    ReplyQueued(response_id="resp_1", model="m", parameters=b"{}", input=(), renderer=1, interrupts=True),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(),
        shown=Shown(version=4, ranges=(), budget=100, tokens=12, encoding="e", renderer=6, request_sha256=b"\x01"),
        queued=True,
    ),
    ReplyCancelled(response_id="resp_1", input_ids=("msg_1",), output_ids=("msg_2",)),
    ReplyInterrupted(response_id="resp_1", code="c", input_ids=("msg_1",), output_ids=("msg_2",)),
    ReplyCompleted(
        response_id="resp_1",
        model="m",
        input_ids=(),
        output_ids=(),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=5, total_ms=6),
        prefix_tokens=5,
        key_id="key_1",
    ),
    ConversationStarted(
        conversation_id="conv_1",
        tenant="acme",
        owner="ann",
        family="conv_0",
        forked_from=Fork(conversation_id="conv_0", item_id="msg_0", version=3, depth=4),
        pinned=("msg_0",),
        summary=InheritedSummary(conversation_id="conv_0", version=2),
    ),
    ItemRetracted(item_id="msg_1", branch=0, depth=2, inherited=True),
    ItemRestored(item_id="msg_1", branch=0, depth=2, inherited=True),
    ConversationDescribed(archived=True),
    ItemAppended(
        item_id="msg_1",
        parent_id="msg_0",
        branch=5,
        depth=2,
        item=b"{}",
        author="ann",
        revises="msg_9",
        leaves=(PathBranch(0, 1, 2),),
        aside=True,
    ),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=b"{}",
        input=(),
        shown=Shown(version=4, ranges=(), budget=100, tokens=12, encoding="e", renderer=6, request_sha256=b"\x01"),
        after=Leaf("msg_1", 2, (PathBranch(0, 2, 3),)),
        regenerates="msg_2",
    ),
    ContextCompacted(
        compaction_id="cmp_1",
        summary="s",
        first="msg_1",
        last="msg_2",
        depth=2,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
        branch=5,
    ),
    CompactionUndone(active=3, undone=4),
    ConversationStarted(
        conversation_id="conv_1",
        tenant="acme",
        owner="ann",
        family="conv_0",
        forked_from=Fork(
            conversation_id="conv_0", item_id="msg_0", version=3, depth=4, branches=(PathBranch(0, 1, 2), PathBranch(5))
        ),
    ),
    ConversationDescribed(
        title="T",
        title_by="model",
        title_items=("msg_1", "msg_2"),
        model="m",
        usage=Usage(input_tokens=9, output_tokens=1),
        cost=5,
    ),
    ReplyShown(
        response_id="resp_1",
        model="m",
        shown=Shown(version=5, ranges=(), budget=9, tokens=8, encoding="e", renderer=4, request_sha256=b"\x03"),
        reason="window",
        aside=True,
    ),
)
"""Events with fields that were added after the first version of their type."""

FROZEN: dict[str, str] = {
    "conversation.started": "018aaf636f6e766572736174696f6e5f6964a6636f6e765f31a674656e616e74a461636d65a56f776e6572a3616e6ea666616d696c79a6636f6e765f30a57469746c65a154ac696e737472756374696f6e73a149a86d6574616461746181a16ba176ae636f6e746578745f706f6c69637982a662756467657401a77265736572766502a66c6973746564c2ab666f726b65645f66726f6d83af636f6e766572736174696f6e5f6964a6636f6e765f30a76974656d5f6964a56d73675f30a776657273696f6e03",
    "conversation.described": "0184a57469746c65c0ac696e737472756374696f6e73a149a86d6574616461746180ae636f6e746578745f706f6c69637980",
    "item.appended": "0188a76974656d5f6964a56d73675f31a9706172656e745f6964a56d73675f30a66272616e636801a5646570746802a46974656dc40f7b22726f6c65223a2275736572227da6617574686f72a3616e6ea772657669736573a56d73675f39ab726573706f6e73655f6964a6726573705f31",
    "item.retracted": "0183a76974656d5f6964a56d73675f31a66272616e636800a5646570746802",
    "item.restored": "0183a76974656d5f6964a56d73675f31a66272616e636800a5646570746802",
    "item.pinned": "0184a76974656d5f6964a56d73675f31a66272616e636800a5646570746802a670696e6e656492a56d73675f30a56d73675f31",
    "item.unpinned": "0182a76974656d5f6964a56d73675f31a670696e6e656491a56d73675f30",
    "head.moved": "0183a76974656d5f6964a56d73675f31a5646570746802a47061746892930001029305c0c0",
    "reply.queued": "0185ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e7075749182a76974656d5f6964a56d73675f31a46974656dc4027b7da872656e646572657201",
    "reply.requested": "0185ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e7075749182a76974656d5f6964a56d73675f31a46974656dc4027b7da573686f776e88a776657273696f6e04a672616e6765739184a56669727374a56d73675f31a46c617374a56d73675f32a5636f756e7402a6746f6b656e7309a662756467657464a6746f6b656e730ca8656e636f64696e67aa6f3230306b5f62617365a872656e646572657201ae726571756573745f736861323536c4020102a773756d6d617279a173",
    "reply.shown": "0184ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da573686f776e87a776657273696f6e05a672616e67657390a662756467657409a6746f6b656e7308a8656e636f64696e67a165a872656e646572657204ae726571756573745f736861323536c40103a6726561736f6ea677696e646f77",
    "reply.completed": "0188ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da9696e7075745f69647391a56d73675f31aa6f75747075745f69647391a56d73675f32a5757361676584ac696e7075745f746f6b656e7301ad6f75747075745f746f6b656e7302ad6361636865645f746f6b656e7303b0726561736f6e696e675f746f6b656e7304ad66696e6973685f726561736f6ea473746f70a674696d696e6782a866697273745f6d7305a8746f74616c5f6d7306ad64656c74615f6c656e67746873920102",
    "reply.failed": "0184ab726573706f6e73655f6964a6726573705f31a4636f6465a163a76d657373616765a16dae7061727469616c5f6f7574707574a170",
    "reply.cancelled": "0183ab726573706f6e73655f6964a6726573705f31a66f75747075749182a76974656d5f6964a56d73675f31a46974656dc4027b7dad64656c74615f6c656e67746873920102",
    "reply.interrupted": "0184ab726573706f6e73655f6964a6726573705f31a4636f6465a163a66f75747075749182a76974656d5f6964a56d73675f31a46974656dc4027b7dad64656c74615f6c656e67746873920102",
    "reply.deleted": "0181ab726573706f6e73655f6964a6726573705f31",
    "reply.described": "0182ab726573706f6e73655f6964a6726573705f31a86d6574616461746181a16ba176",
    "context.compacted": "018aad636f6d70616374696f6e5f6964a5636d705f31a773756d6d617279a173a56669727374a56d73675f31a46c617374a56d73675f32a5646570746802a5636f756e7402ad746f6b656e735f6265666f726509ac746f6b656e735f616674657201a56d6f64656ca16da87265706c6163657303",
    "context.compaction_undone": "0181a661637469766503",
    "context.compaction_redone": "0181a661637469766504",
    "feedback.given": "0187ab666565646261636b5f6964aa666565646261636b5f31a26279a3616e6ea6726174696e6701a76974656d5f6964a56d73675f31a66c6162656c7391a16ca7636f6d6d656e74a163a870726576696f7573ff",
    "feedback.withdrawn": "0184ab666565646261636b5f6964aa666565646261636b5f31a26279a3616e6ea6726174696e6701a76974656d5f6964a56d73675f31",
    "conversation.shared": "0181a67368617265739282a4726f6c65a6777269746572a77375626a656374a3626f6281a4726f6c65a6726561646572",
    "conversation.unshared": "0181a67368617265739181a4726f6c65a6726561646572",
    "conversation.ended": "0181a6726561736f6ea172",
    "conversation.reopened": "0180",
    "conversation.deleted": "0180",
}
EXTENDED_FROZEN: tuple[tuple[str, str], ...] = (
    (
        "conversation.started",
        "0186af636f6e766572736174696f6e5f6964a6636f6e765f31a674656e616e74a461636d65a56f776e6572a3616e6ea666616d696c79a6636f6e765f30ae636f6e746578745f706f6c69637981a87374726174656779af726f6c6c696e675f73756d6d617279ab666f726b65645f66726f6d84af636f6e766572736174696f6e5f6964a6636f6e765f30a76974656d5f6964a56d73675f30a776657273696f6e03a5646570746804",
    ),
    (
        "reply.requested",
        "0185ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a573686f776e88a776657273696f6e04a672616e67657390a662756467657464a6746f6b656e730ca8656e636f64696e67aa6f3230306b5f62617365a872656e646572657202ae726571756573745f736861323536c4020102a86c6566745f6f75749184a6726561736f6ea6627564676574a56669727374a56d73675f31a46c617374a56d73675f32a5636f756e7402",
    ),
    (
        "reply.completed",
        "0188ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da9696e7075745f69647390aa6f75747075745f69647390a5757361676580ad66696e6973685f726561736f6ea473746f70a674696d696e6782a866697273745f6d7305a8746f74616c5f6d7306a4636f737407",
    ),
    (
        "reply.failed",
        "0185ab726573706f6e73655f6964a6726573705f31a4636f6465a163a76d657373616765a16da66f75747075749182a76974656d5f6964a56d73675f31a46974656dc4027b7dad64656c74615f6c656e67746873920102",
    ),
    (
        "reply.completed",
        "0188ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da9696e7075745f69647390aa6f75747075745f69647390a5757361676581b263616368655f77726974655f746f6b656e7308ad66696e6973685f726561736f6ea473746f70a674696d696e6782a866697273745f6d7305a8746f74616c5f6d7306ac736572766963655f74696572a764656661756c74",
    ),
    (
        "item.appended",
        "0187a76974656d5f6964a56d73675f31a9706172656e745f6964c0a66272616e636800a5646570746801a46974656dc4027b7da6617574686f72a3616e6ea7636f70795f6f66a56d73675f30",
    ),
    (
        "reply.cancelled",
        "0182ab726573706f6e73655f6964a6726573705f31a66f75747075749183a76974656d5f6964a56d73675f31a46974656dc4027b7da7636f70795f6f66a56d73675f30",
    ),
    (
        "context.compacted",
        "018bad636f6d70616374696f6e5f6964a5636d705f31a773756d6d617279a173a56669727374a56d73675f31a46c617374a56d73675f32a5646570746802a5636f756e7402ad746f6b656e735f6265666f726509ac746f6b656e735f616674657201a56d6f64656ca16dad726561645f706f736974696f6e05a96f726967696e616c7391a56d73675f30",
    ),
    ("conversation.described", "0181a66c6973746564c3"),
    (
        "reply.requested",
        "0186ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a573686f776e87a776657273696f6e04a672616e67657390a662756467657464a6746f6b656e730ca8656e636f64696e67a165a872656e646572657206ae726571756573745f736861323536c40101aa7472616e73637269707483ac696e737472756374696f6e7391c4117b22726f6c65223a2273797374656d227da46261736583af636f6e766572736174696f6e5f6964a6636f6e765f30ab726573706f6e73655f6964a6726573705f30a5636f756e7402a570617274739282a56974656d7392a56d73675f31a466635f31a76368616e676573c4027b7d81a76d657373616765c40f7b22726f6c65223a2275736572227d",
    ),
    (
        "reply.requested",
        "0185ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a573686f776e89a776657273696f6e04a672616e67657390a662756467657464a6746f6b656e730ca8656e636f64696e67a165a872656e646572657204ae726571756573745f736861323536c40101a873657175656e636585a5646570746808ab66697273745f646570746803a873657474696e6773c40102a6706f696e747392930205c4010393040cc40104a773756d6d617279c40105ad7368617265645f70726566697883a6746f6b656e7305a86d6573736167657301a6726561736f6ead696e7075745f6368616e676564",
    ),
    (
        "reply.queued",
        "0186ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a872656e646572657201aa696e7465727275707473c3",
    ),
    (
        "reply.requested",
        "0186ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a573686f776e87a776657273696f6e04a672616e67657390a662756467657464a6746f6b656e730ca8656e636f64696e67a165a872656e646572657206ae726571756573745f736861323536c40101a6717565756564c3",
    ),
    (
        "reply.cancelled",
        "0183ab726573706f6e73655f6964a6726573705f31a9696e7075745f69647391a56d73675f31aa6f75747075745f69647391a56d73675f32",
    ),
    (
        "reply.interrupted",
        "0184ab726573706f6e73655f6964a6726573705f31a4636f6465a163a9696e7075745f69647391a56d73675f31aa6f75747075745f69647391a56d73675f32",
    ),
    (
        "reply.completed",
        "0189ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da9696e7075745f69647390aa6f75747075745f69647390a5757361676580ad66696e6973685f726561736f6ea473746f70a674696d696e6782a866697273745f6d7305a8746f74616c5f6d7306ad7072656669785f746f6b656e7305a66b65795f6964a56b65795f31",
    ),
    (
        "conversation.started",
        "0187af636f6e766572736174696f6e5f6964a6636f6e765f31a674656e616e74a461636d65a56f776e6572a3616e6ea666616d696c79a6636f6e765f30ab666f726b65645f66726f6d84af636f6e766572736174696f6e5f6964a6636f6e765f30a76974656d5f6964a56d73675f30a776657273696f6e03a5646570746804a670696e6e656491a56d73675f30a773756d6d61727982af636f6e766572736174696f6e5f6964a6636f6e765f30a776657273696f6e02",
    ),
    ("item.retracted", "0184a76974656d5f6964a56d73675f31a66272616e636800a5646570746802a9696e68657269746564c3"),
    ("item.restored", "0184a76974656d5f6964a56d73675f31a66272616e636800a5646570746802a9696e68657269746564c3"),
    ("conversation.described", "0181a86172636869766564c3"),
    (
        "item.appended",
        "0189a76974656d5f6964a56d73675f31a9706172656e745f6964a56d73675f30a66272616e636805a5646570746802a46974656dc4027b7da6617574686f72a3616e6ea772657669736573a56d73675f39a66c65617665739193000102a56173696465c3",
    ),
    (
        "reply.requested",
        "0187ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16daa706172616d6574657273c4027b7da5696e70757490a573686f776e87a776657273696f6e04a672616e67657390a662756467657464a6746f6b656e730ca8656e636f64696e67a165a872656e646572657206ae726571756573745f736861323536c40101a5616674657293a56d73675f31029193000203ab726567656e657261746573a56d73675f32",
    ),
    (
        "context.compacted",
        "018aad636f6d70616374696f6e5f6964a5636d705f31a773756d6d617279a173a56669727374a56d73675f31a46c617374a56d73675f32a5646570746802a5636f756e7402ad746f6b656e735f6265666f726509ac746f6b656e735f616674657201a56d6f64656ca16da66272616e636805",
    ),
    (
        "context.compaction_undone",
        "0182a661637469766503a6756e646f6e6504",
    ),
    (
        "conversation.started",
        "0185af636f6e766572736174696f6e5f6964a6636f6e765f31a674656e616e74a461636d65a56f776e6572a3616e6ea666616d696c79a6636f6e765f30ab666f726b65645f66726f6d85af636f6e766572736174696f6e5f6964a6636f6e765f30a76974656d5f6964a56d73675f30a776657273696f6e03a5646570746804a86272616e6368657392930001029305c0c0",
    ),
    (
        "conversation.described",
        "0186a57469746c65a154a87469746c655f6279a56d6f64656cab7469746c655f6974656d7392a56d73675f31a56d73675f32a56d6f64656ca16da5757361676582ac696e7075745f746f6b656e7309ad6f75747075745f746f6b656e7301a4636f737405",
    ),
    (
        "reply.shown",
        "0185ab726573706f6e73655f6964a6726573705f31a56d6f64656ca16da573686f776e87a776657273696f6e05a672616e67657390a662756467657409a6746f6b656e7308a8656e636f64696e67a165a872656e646572657204ae726571756573745f736861323536c40103a6726561736f6ea677696e646f77a56173696465c3",
    ),
)
"""The stored bytes of EXTENDED. FROZEN has the bytes of EXAMPLES, by topic.

If a line changes, stored events of its type may become unreadable.
"""


def test_every_event_has_an_example_and_its_own_topic() -> None:
    assert [type(example) for example in EXAMPLES] == list(EVENTS)
    assert len(BY_TOPIC) == len(EVENTS)


def test_the_encoded_bytes_of_each_example_are_the_frozen_ones() -> None:
    assert {example.topic: encode(example).hex() for example in EXAMPLES} == FROZEN
    assert tuple((example.topic, encode(example).hex()) for example in EXTENDED) == EXTENDED_FROZEN


def test_the_frozen_bytes_decode_to_the_examples() -> None:
    assert tuple(decode(topic, bytes.fromhex(state)) for topic, state in FROZEN.items()) == EXAMPLES
    assert tuple(decode(topic, bytes.fromhex(state)) for topic, state in EXTENDED_FROZEN) == EXTENDED


def test_a_large_event_is_compressed_and_decodes_to_itself() -> None:
    large = ItemAppended(item_id="msg_1", parent_id=None, branch=0, depth=1, item=b"x" * 100_000, author="ann")
    stored = encode(large)
    assert stored[0] == 0x11
    assert len(stored) < 1000
    assert decode(large.topic, stored) == large


@pytest.mark.parametrize(
    ("topic", "state"),
    [
        ("nothing", b"\x01\x80"),
        ("conversation.reopened", b"\x99\x80"),
        ("item.appended", b"\x01\x80"),
        ("item.appended", b""),
        ("item.appended", b"\x11junk"),
    ],
)
def test_the_error_of_unreadable_bytes_names_the_topic(topic: str, state: bytes) -> None:
    with pytest.raises(UnreadableEvent, match=topic):
        decode(topic, state)
