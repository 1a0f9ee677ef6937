/** mimotok's codes file: an .npz of the codes of one recording and of what decodes them. */

import { readNpz, writeNpz } from "./npz.js";

const FORMAT_VERSION = 1;
const FIELDS = ["codes", "num_samples", "sample_rate", "frame_rate", "codebook_sizes", "model", "format_version"];

/**
 * @typedef {object} Codes
 * @property {Uint16Array} values [nQ, frames], one codebook after the other
 * @property {number} nQ codebooks
 * @property {number} frames
 */

/**
 * @typedef {object} CodesFile
 * @property {Codes} codes
 * @property {number} numSamples of the recording
 * @property {number} sampleRate
 * @property {number} frameRate frames per second
 * @property {number[]} codebookSizes
 * @property {string} modelName
 * @property {string} modelSha256
 */

/**
 * Keep the first codebooks.
 * @param {Codes} codes
 * @param {number} nQ how many
 * @returns {Codes}
 */
export function firstCodebooks(codes, nQ) {
  return { values: codes.values.slice(0, nQ * codes.frames), nQ, frames: codes.frames };
}

/**
 * Describe codes of this page's model.
 * @param {Record<string, any>} facts the model's mimotok.json
 * @param {Codes} codes
 * @param {number} numSamples of the recording
 * @returns {CodesFile}
 */
export function describeCodes(facts, codes, numSamples) {
  return {
    codes,
    numSamples,
    sampleRate: facts.sample_rate,
    frameRate: facts.sample_rate / facts.frame_size,
    codebookSizes: facts.codebook_sizes.slice(0, codes.nQ),
    modelName: facts.model,
    modelSha256: facts.weights_sha256,
  };
}

/** @param {number[]} codebookSizes @param {number} frameRate @returns {number} bit/s */
export function bitrate(codebookSizes, frameRate) {
  return frameRate * codebookSizes.reduce((bits, size) => bits + Math.log2(size), 0);
}

/** @param {CodesFile} file @returns {Uint8Array} the bytes that `mimotok encode` would write */
export function writeCodes(file) {
  return writeNpz({
    codes: { dtype: "<u2", shape: [file.codes.nQ, file.codes.frames], bytes: littleEndian(file.codes.values, 2) },
    num_samples: integers(file.numSamples),
    sample_rate: integers(file.sampleRate),
    frame_rate: { dtype: "<f8", shape: [], bytes: new Uint8Array(Float64Array.of(file.frameRate).buffer) },
    codebook_sizes: { ...integers(...file.codebookSizes), shape: [file.codebookSizes.length] },
    model: text(file.modelName, file.modelSha256),
    format_version: integers(FORMAT_VERSION),
  });
}

/**
 * Read a codes file. Throws an error of one line for what is no codes file, or damaged.
 * @param {Uint8Array} bytes
 * @returns {CodesFile}
 */
export function readCodes(bytes) {
  const arrays = readNpz(bytes);
  for (const field of FIELDS) if (!arrays[field]) throw new Error(`the file has no field ${field}: it is not a codes file`);
  const { dtype, shape } = arrays.codes;
  if (dtype !== "<u2" || shape.length !== 2 || !shape[0] || !shape[1]) {
    throw new Error(`codes: ${dtype} [${shape}], expected <u2 [n_q, frames], not empty`);
  }
  const version = number(arrays, "format_version");
  if (version !== FORMAT_VERSION) throw new Error(`format_version=${version}, but this page reads ${FORMAT_VERSION} only`);
  const [modelName, modelSha256] = strings(arrays, "model");
  const file = {
    codes: { values: new Uint16Array(arrays.codes.bytes.slice().buffer), nQ: shape[0], frames: shape[1] },
    numSamples: number(arrays, "num_samples"),
    sampleRate: number(arrays, "sample_rate"),
    frameRate: number(arrays, "frame_rate"),
    codebookSizes: numbers(arrays, "codebook_sizes"),
    modelName,
    modelSha256,
  };
  check(file);
  return file;
}

/** @param {CodesFile} file */
function check({ codes, numSamples, sampleRate, frameRate, codebookSizes }) {
  if (codebookSizes.length !== codes.nQ) {
    throw new Error(`codebook_sizes: ${codebookSizes.length} sizes, but codes have ${codes.nQ} codebooks`);
  }
  codebookSizes.forEach((size, book) => {
    for (const code of codes.values.subarray(book * codes.frames, (book + 1) * codes.frames)) {
      if (code >= size) throw new Error(`codes[${book}] has ${code}, but codebook ${book} has ${size} entries`);
    }
  });
  const frameSize = sampleRate / frameRate;
  const most = codes.frames * frameSize;
  const least = Math.max(1, most - frameSize - frameSize / 4);
  if (!(numSamples >= least && numSamples <= most)) {
    throw new Error(`num_samples=${numSamples}, but ${codes.frames} frames stand for ${least} to ${most}`);
  }
}

/**
 * Check that this page's model decodes these codes. Throws an error that names both models.
 * @param {Record<string, any>} facts the model's mimotok.json
 * @param {CodesFile} file
 */
export function requireFitting(facts, file) {
  if (file.modelSha256 !== facts.weights_sha256) {
    const made = `${file.modelName} (sha256 ${file.modelSha256.slice(0, 12)})`;
    throw new Error(
      `made by model ${made}, not by this page's ${facts.model} (sha256 ${facts.weights_sha256.slice(0, 12)}): ` +
        "start the page with that model (mimotok page --model)",
    );
  }
  if (file.codes.nQ > facts.codebook_sizes.length) {
    throw new Error(`${file.codes.nQ} codebooks, but this page's model has ${facts.codebook_sizes.length}`);
  }
}

/** @param {ArrayLike<number>} values @param {number} width bytes of each */
function littleEndian(values, width) {
  const bytes = new Uint8Array(values.length * width);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) {
    if (width === 2) view.setUint16(2 * i, values[i], true);
    else view.setBigInt64(8 * i, BigInt(values[i]), true);
  }
  return bytes;
}

/** @param {...number} values one value, unless the shape is replaced */
function integers(...values) {
  return { dtype: "<i8", shape: /** @type {number[]} */ ([]), bytes: littleEndian(values, 8) };
}

/** @param {...string} texts */
function text(...texts) {
  const points = texts.map((value) => [...value].map((character) => character.codePointAt(0)));
  const width = Math.max(...points.map((value) => value.length));
  const values = new Uint32Array(width * texts.length);
  points.forEach((value, i) => values.set(value, i * width));
  return { dtype: `<U${width}`, shape: [texts.length], bytes: new Uint8Array(values.buffer) };
}

function numbers(arrays, field) {
  const { dtype, bytes } = arrays[field];
  const copy = bytes.slice().buffer;
  if (dtype === "<i8") return Array.from(new BigInt64Array(copy), Number);
  if (dtype === "<f8") return Array.from(new Float64Array(copy));
  throw new Error(`${field}: unexpected ${dtype}`);
}

function number(arrays, field) {
  const values = numbers(arrays, field);
  if (values.length !== 1) throw new Error(`${field}: ${values.length} values, expected one`);
  return values[0];
}

function strings(arrays, field) {
  const { dtype, shape, bytes } = arrays[field];
  const width = Number(dtype.slice(2));
  if (dtype[1] !== "U" || shape.length !== 1 || shape[0] !== 2) throw new Error(`${field}: unexpected ${dtype} [${shape}]`);
  const points = Array.from(new Uint32Array(bytes.slice().buffer));
  if (points.some((point) => point > 0x10ffff)) throw new Error(`${field}: not text`);
  const all = [points.slice(0, width), points.slice(width)];
  return all.map((value) => String.fromCodePoint(...value.filter((point) => point > 0)));
}
