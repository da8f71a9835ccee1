// OpenAI's SDK for Node in a web page: a conversation, a reply, a stream, an error, a precondition, a list and a deletion.
import OpenAI from "/openai/index.mjs";

const report = {};

async function run() {
  const client = new OpenAI({ baseURL: `${target.store}/v1`, apiKey: target.apiKey, dangerouslyAllowBrowser: true, maxRetries: 0 });
  const conversation = await client.conversations.create({ metadata: { from: "a page" } });

  const created = await client.responses
    .create({ model: "scripted", conversation: conversation.id, input: "Hello?" }, { headers: { "Idempotency-Key": "once" } })
    .withResponse();
  report.text = created.data.output_text;
  report.requestId = created.request_id;
  report.etag = created.response.headers.get("etag");

  const stream = client.responses.stream({ model: "scripted", conversation: conversation.id, input: "Again!" });
  report.deltas = [];
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") report.deltas.push(event.delta);
  }
  report.streamed = (await stream.finalResponse()).output_text;

  const stale = client.conversations.update(conversation.id, { metadata: {} }, { headers: { "If-Match": '"999"' } });
  report.stale = await stale.catch((error) => [error.status, error.code]);
  const missing = client.responses.retrieve(created.data.id.replace(/.$/, (last) => (last === "0" ? "1" : "0")));
  report.missing = await missing.catch((error) => [error.status, error.code]);

  report.items = [];
  for await (const item of client.conversations.items.list(conversation.id, { order: "asc" })) {
    report.items.push(item.content[0].text);
  }
  report.deleted = (await client.conversations.delete(conversation.id)).deleted;
}

run()
  .catch((error) => (report.error = `${error} ${error.cause ?? ""}`))
  .finally(() => fetch("/report", { method: "POST", body: JSON.stringify(report) }));
