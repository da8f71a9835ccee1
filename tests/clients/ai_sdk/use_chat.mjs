// The server's side of the Vercel AI SDK's useChat. It saves the UI messages, and loads them for the next turn.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { convertToModelMessages, generateId, stepCountIs, streamText, tool, validateUIMessages } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "any" });
const tools = {
  weather: tool({
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sunny in ${city}`,
  }),
};
const load = () => (existsSync("messages.json") ? JSON.parse(readFileSync("messages.json", "utf8")) : []);
const save = (messages) => writeFileSync("messages.json", JSON.stringify(messages));

// A route handler: its caller sends the new message only.
async function POST(request) {
  const { message } = await request.json();
  const messages = await validateUIMessages({ messages: [...load(), message], tools });
  const result = streamText({
    model: openai("smollm2-135m"),
    messages: await convertToModelMessages(messages, { tools }),
    tools,
    stopWhen: stepCountIs(5),
  });
  return result.toUIMessageStreamResponse({
    originalMessages: messages,
    generateMessageId: generateId,
    messageMetadata: ({ part }) => (part.type === "finish-step" ? { response: part.response.id } : undefined),
    onFinish: ({ messages }) => save(messages),
  });
}

for (const text of ["What is my name?", "Think! My name is Ada.", "How is the weather in Paris?"]) {
  const message = { id: generateId(), role: "user", parts: [{ type: "text", text }] };
  const response = await POST(new Request("http://localhost/api/chat", { method: "POST", body: JSON.stringify({ message }) }));
  await response.text();
  console.log(load().at(-1).parts.filter((part) => part.type === "text").map((part) => part.text).join(""));
}
console.log(load().at(-1).metadata.response);
