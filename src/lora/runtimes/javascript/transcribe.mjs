// transformers.js in Node: `node transcribe.mjs LIBRARY MODEL`. Asks on standard input, answers on standard output, a line of JSON each.
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

for (const kind of ["uncaughtException", "unhandledRejection"])
  process.on(kind, (error) => {
    console.error(String(error?.message ?? error).split("\n")[0]);
    process.exit(1);
  });

const [library, folder] = process.argv.slice(2).map((name) => path.resolve(name));
const module = path.join(library, "node_modules/@huggingface/transformers/dist/transformers.node.mjs");
const { env, pipeline } = await import(pathToFileURL(module));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + path.sep;
const answer = (content) => process.stdout.write(JSON.stringify(content) + "\n");

// One core: a second one that is not free costs more than it brings.
const options = { session_options: { intraOpNumThreads: 1, interOpNumThreads: 1 } };
const recognise = await pipeline("automatic-speech-recognition", path.basename(folder), options);
answer({});
let samples;
for await (const line of readline.createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  if (ask.samples !== undefined) {
    const bytes = Buffer.from(ask.samples, "base64");
    samples = new Float32Array(new Uint8Array(bytes).buffer);
    answer({});
  } else {
    const { text } = await recognise(samples, { max_new_tokens: ask.cap });
    answer({ text, peak_bytes: process.resourceUsage().maxRSS * 1024 });
  }
}
