// Calls the route as an application does; prints what came, as JSON. Arguments: address, public name.
import { createRequire } from 'node:module';

const require = createRequire(process.env.CLIENT_MODULES + '/');
const OpenAI = require('openai');
const [, , url, model] = process.argv;
const client = new OpenAI({ baseURL: url + '/v1', apiKey: 'key', maxRetries: 0 });
const messages = [{ role: 'user', content: 'Hello?' }];
const found = {};

const { data, response } = await client.chat.completions.create({ model, messages }).withResponse();
found.plain = {
  model: data.model,
  text: data.choices[0].message.content,
  adapter: response.headers.get('x-sentinel-adapter'),
};

found.stream = { text: '', models: [] };
const stream = await client.chat.completions.create({
  model, messages, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  found.stream.text += chunk.choices[0]?.delta?.content ?? '';
  if (!found.stream.models.includes(chunk.model)) found.stream.models.push(chunk.model);
  if (chunk.usage) found.stream.usage = chunk.usage.total_tokens;
}

const tool = await client.chat.completions
  .stream({ model, messages: [{ role: 'user', content: 'TOOL-MARK' }] })
  .finalChatCompletion();
found.tool = tool.choices[0].message.tool_calls[0].function;

const completion = await client.completions.create({ model, prompt: 'Hello?', n: 2 });
found.completion = completion.choices.length;

found.models = (await client.models.list()).data.map((card) => card.id);

for (const [name, body] of Object.entries({
  unknown: { model: 'nobody', messages },
  refused: { model, messages: [{ role: 'user', content: 'REJECT-MARK' }] },
})) {
  try {
    await client.chat.completions.create(body);
  } catch (error) {
    found[name] = { kind: error.constructor.name, status: error.status, message: error.message };
  }
}
console.log(JSON.stringify(found));
