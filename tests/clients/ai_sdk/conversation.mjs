// The Vercel AI SDK. The store keeps the conversation; the program sends only what is new.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = "http://127.0.0.1:8000/v1";
const apiKey = "any";
const openai = createOpenAI({ baseURL, apiKey });
const weather = tool({
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const headers = { "content-type": "application/json", authorization: `Bearer ${apiKey}` };
const post = { method: "POST", headers, body: "{}" };
const create = async () => (await (await fetch(`${baseURL}/conversations`, post)).json()).id;
const conversation = process.argv[2] ?? (await create());
const turn = { model: openai("smollm2-135m"), providerOptions: { openai: { conversation } } };

console.log((await generateText({ ...turn, prompt: "What is my name?" })).text);

for await (const text of streamText({ ...turn, prompt: "Think! My name is Ada." }).textStream) {
  process.stdout.write(text);
}
console.log();

// The SDK would send the question again with the tool's output.
const onlyTheOutput = ({ stepNumber, messages }) => (stepNumber > 0 ? { messages: messages.slice(-1) } : {});
const answer = await generateText({
  ...turn,
  prompt: "How is the weather in Paris?",
  tools: { weather },
  stopWhen: stepCountIs(5),
  prepareStep: onlyTheOutput,
});
console.log(answer.text);
console.log(conversation);
