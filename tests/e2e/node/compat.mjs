// Tools, structured output and embeddings by the unmodified OpenAI SDK: CHAT_URL CHAT_MODEL EMBEDDING_URL EMBEDDING_MODEL
import assert from "node:assert/strict";
import OpenAI from "openai";

const [chatUrl, model, embeddingUrl, embeddingModel] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${chatUrl}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, unit: { enum: ["C", "F"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};

const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const request = { model, messages, tools, tool_choice: "required", temperature: 0, max_tokens: 128 };
const whole = await client.chat.completions.create(request);
const [call] = whole.choices[0].message.tool_calls;
assert.equal(call.function.name, "get_weather");
assert.ok(["C", "F"].includes(JSON.parse(call.function.arguments).unit));
const streamed = await client.chat.completions.stream(request).finalChatCompletion();
assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);

const format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema: parameters } };
const shaped = await client.chat.completions.create({ model, messages, response_format: format, max_tokens: 128 });
assert.ok(["C", "F"].includes(JSON.parse(shaped.choices[0].message.content).unit));

const kinds = [];
const events = await client.responses.create({ model, input: "Say hello.", max_output_tokens: 8, stream: true });
for await (const event of events) kinds.push(event.type);
assert.equal(kinds[0], "response.created");
assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)));

const embedder = new OpenAI({ baseURL: `${embeddingUrl}/v1`, apiKey: "none", maxRetries: 0 });
const { data } = await embedder.embeddings.create({ model: embeddingModel, input: ["a cat", "a dog"] });
assert.equal(data.length, 2);
assert.ok(Math.abs(Math.hypot(...data[0].embedding) - 1) < 1e-3);
console.log("openai for Node: ok");
