# Chat Completions with `llm`, a command line. It keeps the conversations in its own database; `-c` continues the last one.
export LLM_USER_PATH="$PWD/llm"
mkdir -p "$LLM_USER_PATH"
echo '{"store": "any"}' > "$LLM_USER_PATH/keys.json"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<'YAML'
- model_id: store
  model_name: smollm2-135m
  api_base: http://127.0.0.1:8000/v1
  api_key_name: store
  supports_tools: true
YAML
weather='
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"
'

if [ -e "$LLM_USER_PATH/logs.db" ]; then continue=-c; else continue=; fi
llm -m store $continue --no-stream 'What is my name?'
llm -c 'Think! My name is Ada.'
llm -c --functions "$weather" 'How is the weather in Paris?'
