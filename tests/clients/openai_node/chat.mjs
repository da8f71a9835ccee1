// Chat Completions with the OpenAI SDK for Node. The program keeps the messages, and sends all of them with every turn.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import OpenAI from "openai";

const tools = [
  {
    type: "function",
    function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
  },
];

const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const model = "smollm2-135m";
const messages = existsSync("messages.json") ? JSON.parse(readFileSync("messages.json", "utf8")) : [];

messages.push({ role: "user", content: "What is my name?" });
const first = await client.chat.completions.create({ model, messages });
messages.push(first.choices[0].message);
console.log(messages.at(-1).content);

messages.push({ role: "user", content: "Think! My name is Ada." });
let content = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  content += chunk.choices[0]?.delta.content ?? "";
}
messages.push({ role: "assistant", content });
console.log(content);

messages.push({ role: "user", content: "How is the weather in Paris?" });
while (messages.at(-1).role !== "assistant") {
  const answer = await client.chat.completions.create({ model, messages, tools });
  messages.push(answer.choices[0].message);
  for (const call of messages.at(-1).tool_calls ?? []) {
    const { city } = JSON.parse(call.function.arguments);
    messages.push({ role: "tool", tool_call_id: call.id, content: `sunny in ${city}` });
  }
}
console.log(messages.at(-1).content);

writeFileSync("messages.json", JSON.stringify(messages));
