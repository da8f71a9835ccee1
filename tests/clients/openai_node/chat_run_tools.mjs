// Chat Completions with the helpers of the OpenAI SDK for Node: `runTools` calls the tools, `stream` collects the message.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import OpenAI from "openai";

const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } } },
      parse: JSON.parse,
      function: ({ city }) => `sunny in ${city}`,
    },
  },
];

const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const model = "smollm2-135m";
let messages = existsSync("messages.json") ? JSON.parse(readFileSync("messages.json", "utf8")) : [];

for (const content of ["What is my name?", "Think! My name is Ada."]) {
  messages.push({ role: "user", content });
  const stream = client.chat.completions.stream({ model, messages });
  stream.on("content", (text) => process.stdout.write(text));
  messages.push(await stream.finalMessage());
  console.log();
}

messages.push({ role: "user", content: "How is the weather in Paris?" });
const runner = client.chat.completions.runTools({ model, messages, tools, stream: true });
console.log(await runner.finalContent());
messages = runner.messages;

writeFileSync("messages.json", JSON.stringify(messages));
