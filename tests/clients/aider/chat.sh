# Chat Completions with aider, in its chat mode `ask`. It keeps the messages in a file of its directory.
export OPENAI_API_BASE="http://127.0.0.1:8000/v1" OPENAI_API_KEY="any"
cat > .aider.model.metadata.json <<'JSON'
{"openai/smollm2-135m": {"max_input_tokens": 8192, "litellm_provider": "openai", "mode": "chat"}}
JSON
printf '%s\n' 'What is my name?' 'Think! My name is Ada.' 'How is the weather in Paris?' |
  aider --model openai/smollm2-135m --chat-mode ask --chat-language English --restore-chat-history \
    --no-git --no-pretty --yes-always --no-check-update --analytics-disable
