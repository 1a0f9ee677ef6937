/** mimotok's codes file: an .npz of the codes of one recording and of what decodes them. */

import { joined, readNpz, writeNpz } from "./npz.js";

const FORMAT_VERSION = 2;
const MAX_LINE = 1 << 13;
const FIELDS_1 = ["codes", "num_samples", "sample_rate", "frame_rate", "codebook_sizes", "model", "format_version"];

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

/** Bits of a code of each codebook. @param {number[]} codebookSizes */
function widthsOf(codebookSizes) {
  return codebookSizes.map((size) => Math.max(1, 32 - Math.clz32(size - 1)));
}

/** Pack codes frame after frame, the most significant bit first. @param {Codes} codes @param {number[]} codebookSizes */
function pack({ values, nQ, frames }, codebookSizes) {
  const widths = widthsOf(codebookSizes);
  const bytes = new Uint8Array(Math.ceil((frames * widths.reduce((sum, width) => sum + width, 0)) / 8));
  let place = 0;
  for (let frame = 0; frame < frames; frame++) {
    for (let book = 0; book < nQ; book++) {
      const code = values[book * frames + frame];
      for (let bit = widths[book] - 1; bit >= 0; bit--, place++) bytes[place >> 3] |= ((code >> bit) & 1) << (7 - (place & 7));
    }
  }
  return bytes;
}

/** Invert `pack`. @param {Uint8Array} bytes @param {number} frames @param {number[]} codebookSizes @returns {Codes} */
function unpack(bytes, frames, codebookSizes) {
  const widths = widthsOf(codebookSizes);
  const bits = frames * widths.reduce((sum, width) => sum + width, 0);
  const nQ = codebookSizes.length;
  if (bytes.length !== Math.ceil(bits / 8)) {
    throw new Error(`${bytes.length} bytes of codes, but ${frames} frames take ${Math.ceil(bits / 8)}`);
  }
  if (bits % 8 && bytes[bytes.length - 1] & (0xff >> bits % 8)) throw new Error("bits follow the last code");
  const values = new Uint16Array(nQ * frames);
  let place = 0;
  for (let frame = 0; frame < frames; frame++) {
    for (let book = 0; book < nQ; book++) {
      let code = 0;
      for (let bit = 0; bit < widths[book]; bit++, place++) code = (code << 1) | ((bytes[place >> 3] >> (7 - (place & 7))) & 1);
      values[book * frames + frame] = code;
    }
  }
  return { values, nQ, frames };
}

/** @param {CodesFile} file @returns {Promise<Uint8Array>} a file as `mimotok encode` writes it */
export async function writeCodes(file) {
  // Python writes 25.0 and not 25
  const rate = Number.isInteger(file.frameRate) ? file.frameRate.toFixed(1) : String(file.frameRate);
  const line =
    `{"format_version":${FORMAT_VERSION},"model":${JSON.stringify(file.modelName)},"sha256":${JSON.stringify(file.modelSha256)},` +
    `"num_samples":${file.numSamples},"sample_rate":${file.sampleRate},"frame_rate":${rate},` +
    `"codebook_sizes":${JSON.stringify(file.codebookSizes)},"num_frames":${file.codes.frames}}\n`;
  const bytes = joined([new TextEncoder().encode(line), pack(file.codes, file.codebookSizes)]);
  return writeNpz({ packed: { dtype: "|u1", shape: [bytes.length], bytes } });
}

/**
 * Read a codes file of format 1 or 2. Throws an error of one line for what is no codes file, or damaged.
 * @param {Uint8Array} bytes
 * @returns {Promise<CodesFile>}
 */
export async function readCodes(bytes) {
  const arrays = await readNpz(bytes);
  const file = arrays.packed ? fromPacked(arrays.packed) : fromArrays(arrays);
  check(file);
  return file;
}

/** @param {import("./npz.js").NpyArray} array @returns {CodesFile} */
function fromPacked({ dtype, shape, bytes }) {
  if (dtype !== "|u1" || shape.length !== 1) throw new Error(`packed: ${dtype} [${shape}], expected |u1 [bytes]`);
  const end = bytes.subarray(0, MAX_LINE).indexOf(10);
  if (end < 0) throw new Error("packed: no line of JSON");
  /** @type {Record<string, any>} */
  let header;
  try {
    header = Object(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end))));
  } catch {
    throw new Error("packed: no line of JSON");
  }
  const version = header.format_version;
  if (version !== FORMAT_VERSION) throw new Error(`format_version=${version}, but this page reads 1 and ${FORMAT_VERSION} only`);
  for (const field of ["num_samples", "sample_rate", "num_frames"]) requireWholeNumber(field, header[field], 2 ** 32);
  if (!(header.frame_rate > 0)) throw new Error("frame_rate: expected a number above 0");
  const sizes = header.codebook_sizes;
  if (!Array.isArray(sizes) || !sizes.length) throw new Error("codebook_sizes: expected a list of whole numbers");
  for (const size of sizes) requireWholeNumber("codebook_sizes", size, 1 << 16);
  for (const field of ["model", "sha256"]) if (typeof header[field] !== "string") throw new Error(`${field}: expected text`);
  return {
    codes: unpack(bytes.subarray(end + 1), header.num_frames, sizes),
    numSamples: header.num_samples,
    sampleRate: header.sample_rate,
    frameRate: header.frame_rate,
    codebookSizes: sizes,
    modelName: header.model,
    modelSha256: header.sha256,
  };
}

/** @param {string} field @param {unknown} value @param {number} most */
function requireWholeNumber(field, value, most) {
  if (!(Number.isInteger(value) && Number(value) >= 1 && Number(value) <= most)) {
    throw new Error(`${field}: expected a whole number from 1 to ${most}`);
  }
}

/** @param {Record<string, import("./npz.js").NpyArray>} arrays those of format 1 @returns {CodesFile} */
function fromArrays(arrays) {
  for (const field of FIELDS_1) if (!arrays[field]) throw new Error(`the file has no field ${field}: it is not a codes file`);
  const { dtype, shape } = arrays.codes;
  if (dtype !== "<u2" || shape.length !== 2 || !shape[0] || !shape[1]) {
    throw new Error(`codes: ${dtype} [${shape}], expected <u2 [n_q, frames], not empty`);
  }
  const version = number(arrays, "format_version");
  if (version !== 1) throw new Error(`format_version=${version}, but a file with these fields has 1`);
  const [modelName, modelSha256] = strings(arrays, "model");
  return {
    codes: { values: new Uint16Array(arrays.codes.bytes.slice().buffer), nQ: shape[0], frames: shape[1] },
    numSamples: number(arrays, "num_samples"),
    sampleRate: number(arrays, "sample_rate"),
    frameRate: number(arrays, "frame_rate"),
    codebookSizes: numbers(arrays, "codebook_sizes"),
    modelName,
    modelSha256,
  };
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
