// The OpenAI SDK for Node.
import OpenAI from "openai";

const weather = {
  type: "function",
  name: "weather",
  parameters: { type: "object", properties: { city: { type: "string" } } },
  strict: false,
};

const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const conversation = process.argv[2] ?? (await client.conversations.create()).id;
const turn = { model: "smollm2-135m", conversation };

console.log((await client.responses.create({ ...turn, input: "What is my name?" })).output_text);

const stream = client.responses.stream({ ...turn, input: "Think! My name is Ada." });
for await (const event of stream) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
}
await stream.finalResponse();
console.log();

let answer = await client.responses.create({ ...turn, input: "How is the weather in Paris?", tools: [weather] });
let calls;
while ((calls = answer.output.filter((item) => item.type === "function_call")).length > 0) {
  const input = calls.map((call) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: `sunny in ${JSON.parse(call.arguments).city}`,
  }));
  answer = await client.responses.create({ ...turn, input, tools: [weather] });
}
console.log(answer.output_text);
console.log(conversation);
