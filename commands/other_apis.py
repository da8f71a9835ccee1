"""Parameter names of other APIs, and what to send instead."""

from types import MappingProxyType

OTHER_NAMES = MappingProxyType(
    {
        "additional_instructions": "`instructions`",
        "additional_messages": "`input`",
        "contents": "`input`",
        "conversation_id": "`conversation`",
        "function_call": "`tool_choice`",
        "functions": "`tools`",
        "items": "`input`",
        "max_completion_tokens": "`max_output_tokens`",
        "max_tokens": "`max_output_tokens`",
        "messages": "`input`",
        "reasoning_effort": "`reasoning.effort`",
        "response_format": "`text.format`",
        "response_id": "`previous_response_id`",
        "system": "`instructions`",
        "system_instruction": "`instructions`",
        "thinking": "`reasoning`",
        "thread_id": "`conversation`",
        "truncation_strategy": "`truncation`",
        "verbosity": "`text.verbosity`",
        "web_search_options": "`tools`",
    }
)
"""Used if the request asks for a reply."""

OTHER_NAMES_OF_ITEMS = MappingProxyType(dict.fromkeys(("input", "item", "messages"), "`items`"))
"""Used if the request adds items."""

OTHER_NAMES_OF_ITEM = MappingProxyType(dict.fromkeys(("input", "items", "message", "messages", "content"), "`item`"))
"""Used if the request has one item."""

OTHER_NAMES_OF_CONVERSATIONS = MappingProxyType(
    {**OTHER_NAMES_OF_ITEMS, "name": "`title`", "system": "`instructions`", "truncation_strategy": "`context_policy`"}
)
"""Used if the request creates or changes a conversation."""
