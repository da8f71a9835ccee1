// Chat Completions with the Vercel AI SDK. The program keeps the messages, and sends all of them with every turn.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const model = openai.chat("smollm2-135m");
const weather = tool({
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const messages = existsSync("messages.json") ? JSON.parse(readFileSync("messages.json", "utf8")) : [];

messages.push({ role: "user", content: "What is my name?" });
const first = await generateText({ model, messages });
messages.push(...first.response.messages);
console.log(first.text);

messages.push({ role: "user", content: "Think! My name is Ada." });
const second = streamText({ model, messages });
for await (const text of second.textStream) process.stdout.write(text);
messages.push(...(await second.response).messages);
console.log();

messages.push({ role: "user", content: "How is the weather in Paris?" });
const third = await generateText({ model, messages, tools: { weather }, stopWhen: stepCountIs(5) });
messages.push(...third.response.messages);
console.log(third.text);

writeFileSync("messages.json", JSON.stringify(messages));
