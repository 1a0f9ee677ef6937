/** The worker that computes, so that the page stays responsive. It answers each request by its number. */

import { Codec } from "./codec.js";

// The share of loading that is download; the rest is to make the graphs ready.
const DOWNLOAD = 0.9;

/** @type {Codec} */
let codec;

const work = {
  /** @param {{root: string, sizes: Record<string, number>}} request */
  async load({ root, sizes }, progress) {
    const files = Object.keys(sizes);
    const total = files.reduce((sum, file) => sum + sizes[file], 0);
    const done = Object.fromEntries(files.map((file) => [file, 0]));
    const count = (file, bytes) => {
      done[file] += bytes;
      const sum = files.reduce((all, name) => all + done[name], 0);
      progress(DOWNLOAD * Math.min(1, sum / total));
    };
    const read = async (/** @type {string} */ file) => [file, await download(new URL(file, root), file, count)];
    const bytes = Object.fromEntries(await Promise.all(files.map(read)));
    const ort = await import(new URL("ort/ort.wasm.bundle.min.mjs", root).href);
    ort.env.wasm.wasmBinary = bytes["ort/ort-wasm-simd-threaded.wasm"].buffer;
    // Threads share memory, which browsers allow on pages that isolate themselves from other origins.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    const facts = JSON.parse(new TextDecoder().decode(bytes["model/mimotok.json"]));
    const graphs = { encoder: bytes["model/encoder.onnx"], decoder: bytes["model/decoder.onnx"] };
    codec = await Codec.create(ort, facts, graphs);
    return { facts, threads: ort.env.wasm.numThreads };
  },
  async encode({ wav }, progress) {
    return codec.encode(wav, progress);
  },
  async decode({ codes, numSamples }, progress) {
    return codec.decode(codes, numSamples, progress);
  },
};

/** Fetch a file of this origin, counting bytes as they come. */
async function download(url, file, count) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) {
    throw new Error(`${file} could not be loaded (${response ? response.status : "no answer"}): reload the page`);
  }
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    count(file, value.length);
  }
  const whole = new Uint8Array(size);
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

self.onmessage = async ({ data: { id, kind, request } }) => {
  try {
    const result = await work[kind](request, (done) => self.postMessage({ id, progress: done }));
    self.postMessage({ id, result });
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
};
