// Runs the page's own modules in Node. Usage: node check.mjs PAGE_FOLDER WORK_FOLDER
// WORK_FOLDER holds wav.f32, a mono sound as float32; the codes and sounds that come out are written there.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [page, work] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(page, file)).href);
const { Codec } = await load("js/codec.js");
const { describeCodes, firstCodebooks, readCodes, writeCodes } = await load("js/codes-file.js");
const ort = await load("ort/ort.wasm.bundle.min.mjs");
ort.env.wasm.wasmBinary = (await readFile(join(page, "ort/ort-wasm-simd-threaded.wasm"))).buffer;
ort.env.wasm.numThreads = 1;

const facts = JSON.parse(await readFile(join(page, "model/mimotok.json"), "utf8"));
const [encoder, decoder] = await Promise.all(
  ["encoder", "decoder"].map((name) => readFile(join(page, `model/${name}.onnx`))),
);
const codec = await Codec.create(ort, facts, { encoder, decoder });
const wav = new Float32Array((await readFile(join(work, "wav.f32"))).buffer.slice());
const shares = [];
const codes = await codec.encode(wav, (share) => shares.push(share));
for (let nQ = 1; nQ <= codes.nQ; nQ++) {
  const file = await writeCodes(describeCodes(facts, firstCodebooks(codes, nQ), wav.length));
  await writeFile(join(work, `${nQ}.npz`), file);
  const again = await readCodes(file);
  const sound = await codec.decode(again.codes, again.numSamples);
  await writeFile(join(work, `${nQ}.f32`), new Uint8Array(sound.buffer));
}
for (const bad of [NaN, 17]) {
  const problem = await codec.encode(new Float32Array(4000).fill(bad)).catch((error) => error.message);
  if (!/NaN or infinite|peak 17/.test(String(problem))) throw new Error(`${bad} was taken for sound`);
}
console.log(JSON.stringify({ shares }));
