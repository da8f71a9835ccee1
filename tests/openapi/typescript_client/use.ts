// A program that uses openapi-fetch with the types that openapi-typescript made. tsc checks it. It prints what the store answers.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Item = components["schemas"]["Item"];

const { GET, POST } = createClient<paths>({ baseUrl: process.argv[2] });

function textOf(items: Item[]): string[] {
  return items.flatMap((item) => ("content" in item && Array.isArray(item.content) ? item.content : [])).map((part) => part.text);
}

const created = await POST("/v1/conversations", { body: { title: "Oslo", metadata: { trip: "1" } } });
assert(created.data, created.error?.error.message);
const conversation: components["schemas"]["Conversation"] = created.data;
const path = { conversation_id: conversation.id };

const message = { type: "message", role: "user", content: "Hello!" } as const;
const added = await POST("/v1/conversations/{conversation_id}/items", {
  params: { path, header: { "Idempotency-Key": conversation.id } },
  body: { items: [message, message] },
});
assert.equal(added.data?.data.length, 2);

const page = await GET("/v1/conversations/{conversation_id}/items", { params: { path, query: { order: "asc", limit: 1 } } });
assert(page.data);
assert.deepEqual([textOf(page.data.data), page.data.has_more], [["Hello!"], true]);

const found = await GET("/v1/conversations", { params: { query: { metadata: { trip: "1" } } } });
assert.deepEqual(found.data?.data.map(({ id }) => id), [conversation.id]);

const missing = await GET("/v1/conversations/{conversation_id}", {
  params: { path: { conversation_id: `conv_${"0".repeat(32)}` } },
});
assert(missing.error);
console.log(conversation.title, added.data?.data.length, missing.error.error.code);
