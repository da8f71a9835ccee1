// The OpenAI Agents SDK for Node. The store keeps the conversation; the program sends only what is new.
import { Agent, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

setTracingDisabled(true);
const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const weather = tool({
  name: "weather",
  description: "The weather in a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const agent = new Agent({ name: "Helper", model: new OpenAIResponsesModel(client, "smollm2-135m"), tools: [weather] });
const conversationId = process.argv[2] ?? (await client.conversations.create()).id;

console.log((await run(agent, "What is my name?", { conversationId })).finalOutput);

const stream = await run(agent, "Think! My name is Ada.", { conversationId, stream: true });
for await (const text of stream.toTextStream()) process.stdout.write(text);
await stream.completed;
console.log();

console.log((await run(agent, "How is the weather in Paris?", { conversationId })).finalOutput);
console.log(conversationId);
