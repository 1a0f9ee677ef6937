/** The codec: sound to codes and back by mimotok's exported graphs. It runs in a worker and in Node alike. */

import { InverseStft } from "./istft.js";

// Longer sound is cut, with around each chunk what its result depends on: memory stays bounded and progress shows.
const CHUNK_FRAMES = 500;
// A model whose attention is unlimited cannot be cut: it takes as much as the official pipeline takes at once.
const UNLIMITED_SECONDS = 60;
// 24 dB above full scale, as in Python: what is louder are integers that somebody stored as floats.
const MAX_PEAK = 16;

/** @typedef {import("./codes-file.js").Codes} Codes */
/** @typedef {(done: number) => void} Progress takes the share that is done, 0 to 1 */

/**
 * Throw for samples that are no sound.
 * @param {Float32Array} wav
 */
function checkLevel(wav) {
  let peak = 0;
  for (const value of wav) {
    if (!Number.isFinite(value)) throw new Error("NaN or infinite samples: clean the sound first");
    peak = Math.max(peak, Math.abs(value));
  }
  if (peak > MAX_PEAK) {
    throw new Error(`absurdly large samples, peak ${peak}: sound lies in [-1, 1], and no more than ${MAX_PEAK} is accepted`);
  }
}

/** The two graphs of one model. */
export class Codec {
  /**
   * @param {any} ort the module onnxruntime-web
   * @param {Record<string, any>} facts the model's mimotok.json
   * @param {any} encoder an inference session
   * @param {any} decoder an inference session
   */
  constructor(ort, facts, encoder, decoder) {
    this.ort = ort;
    this.facts = facts;
    this.encoder = encoder;
    this.decoder = decoder;
  }

  /**
   * Make the sessions.
   * @param {any} ort
   * @param {Record<string, any>} facts
   * @param {{encoder: Uint8Array, decoder: Uint8Array}} graphs the two files' bytes
   */
  static async create(ort, facts, graphs) {
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const encoder = await ort.InferenceSession.create(graphs.encoder, options);
    const decoder = await ort.InferenceSession.create(graphs.decoder, options);
    return new Codec(ort, facts, encoder, decoder);
  }

  /**
   * Encode sound with all codebooks. The first few of them are what encoding with fewer gives.
   * @param {Float32Array} wav mono, at the model's sample rate
   * @param {Progress} [progress]
   * @returns {Promise<Codes>}
   */
  async encode(wav, progress = () => {}) {
    const { frame_size: frameSize, hop_length: hop, codebook_sizes: sizes, encoder_context: context } = this.facts;
    if (!wav.length) throw new Error("the sound is empty: give at least one sample");
    checkLevel(wav);
    const stride = frameSize / hop;
    const frames = Math.ceil((Math.floor(wav.length / hop) + 1) / stride);
    const values = new Uint16Array(sizes.length * frames);
    for (const chunk of this.chunks(frames, context)) {
      // The spectrum at a cut sees mirrored sound for half a window, which lies inside one further frame.
      const first = Math.max(0, chunk.first - 1);
      const part = wav.slice(first * frameSize, (chunk.last + 1) * frameSize);
      const { codes } = await this.encoder.run({
        wav: new this.ort.Tensor("float32", part, [1, part.length]),
        lengths: new this.ort.Tensor("int64", BigInt64Array.of(BigInt(part.length)), [1]),
      });
      const found = codes.dims[2];
      sizes.forEach((_, book) => {
        for (let frame = chunk.start; frame < chunk.end; frame++) {
          values[book * frames + frame] = Number(codes.data[book * found + frame - first]);
        }
      });
      codes.dispose();
      progress(chunk.end / frames);
    }
    return { values, nQ: sizes.length, frames };
  }

  /**
   * Decode codes of any number of codebooks.
   * @param {Codes} codes
   * @param {number} numSamples how much of the sound to keep
   * @param {Progress} [progress]
   * @returns {Promise<Float32Array>} mono sound at the model's sample rate
   */
  async decode(codes, numSamples, progress = () => {}) {
    const { frame_size: frameSize, hop_length: hop, codebook_sizes: sizes, decoder_context: context } = this.facts;
    const stride = frameSize / hop;
    const inverse = new InverseStft(this.facts.n_fft, hop, codes.frames * stride);
    for (const chunk of this.chunks(codes.frames, context)) {
      const count = chunk.last - chunk.first;
      // The graph leaves codes below 0 out.
      const part = new BigInt64Array(sizes.length * count).fill(-1n);
      for (let book = 0; book < codes.nQ; book++) {
        for (let frame = 0; frame < count; frame++) {
          part[book * count + frame] = BigInt(codes.values[book * codes.frames + chunk.first + frame]);
        }
      }
      const { magnitude, phase } = await this.decoder.run({
        codes: new this.ort.Tensor("int64", part, [1, sizes.length, count]),
        lengths: new this.ort.Tensor("int64", BigInt64Array.of(BigInt(count)), [1]),
      });
      const start = (chunk.start - chunk.first) * stride;
      const end = (chunk.end - chunk.first) * stride;
      inverse.add(chunk.start * stride, magnitude.data, phase.data, start, end);
      magnitude.dispose();
      phase.dispose();
      progress(chunk.end / codes.frames);
    }
    return inverse.finish().slice(0, numSamples);
  }

  /**
   * Cut frames into chunks: `start` to `end` is the chunk, `first` to `last` the chunk with its context.
   * @param {number} frames
   * @param {[number, number] | null} context frames before and after, null where only the whole will do
   */
  chunks(frames, context) {
    if (context === null) {
      const seconds = (frames * this.facts.frame_size) / this.facts.sample_rate;
      if (seconds > UNLIMITED_SECONDS) {
        throw new Error(
          `the sound lasts ${seconds.toFixed(1)} s, but this model's attention is unlimited: ` +
            `give less than ${UNLIMITED_SECONDS} s at once`,
        );
      }
      return [{ start: 0, end: frames, first: 0, last: frames }];
    }
    const chunks = [];
    for (let start = 0; start < frames; start += CHUNK_FRAMES) {
      const end = Math.min(frames, start + CHUNK_FRAMES);
      const first = Math.max(0, start - context[0]);
      chunks.push({ start, end, first, last: Math.min(frames, end + context[1]) });
    }
    return chunks;
  }
}
