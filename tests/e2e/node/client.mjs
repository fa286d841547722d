// Speaks to a server through the unmodified OpenAI SDK and prints what came, as JSON. Usage: node client.mjs URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;

async function collect(stream, piece) {
  const answer = { text: "", chunks: 0, finishReason: null, usage: null };
  for await (const chunk of stream) {
    const [choice] = chunk.choices;
    if (choice) {
      answer.chunks += 1;
      answer.text += piece(choice) ?? "";
      answer.finishReason = choice.finish_reason ?? answer.finishReason;
    }
    answer.usage = chunk.usage ?? answer.usage;
  }
  return answer;
}

const content = "What is the capital of France? Answer in one word.";
const question = { model, temperature: 0, messages: [{ role: "user", content }] };
const text = { model, temperature: 0, max_tokens: 12, prompt: "The days of the week are Monday, Tuesday," };
const streamed = { stream: true, stream_options: { include_usage: true } };

const chatStream = await client.chat.completions.create({ ...question, ...streamed, max_completion_tokens: 24 });
const chat = await collect(chatStream, (choice) => choice.delta.content);
const whole = await client.chat.completions.create({ ...question, max_completion_tokens: 24 });
const completion = await collect(await client.completions.create({ ...text, ...streamed }), (choice) => choice.text);
const wholeCompletion = await client.completions.create(text);

const aborted = await client.chat.completions.create({ ...question, stream: true, max_completion_tokens: 2000 });
for await (const _ of aborted) break;

const error = await client.chat.completions.create({ ...question, model: "no-such-model" }).catch((caught) => caught);

console.log(
  JSON.stringify({
    model,
    retrieved: (await client.models.retrieve(model)).id,
    chat,
    wholeChat: whole.choices[0].message.content,
    completion,
    wholeCompletion: wholeCompletion.choices[0].text,
    error: { name: error.constructor.name, status: error.status, param: error.param, message: error.message },
  }),
);
