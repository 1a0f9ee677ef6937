/** Sound in and out: files read and resampled by the browser, the microphone, and 16-bit wav files. */

// The browser holds a whole file in memory, and so do the pictures: longer files are for the command line.
export const MAX_SECONDS = 600;

/**
 * Read a sound file of any kind that the browser knows.
 * @param {ArrayBuffer} bytes the file
 * @param {number} sampleRate to resample to
 * @returns {Promise<Float32Array>} mono
 */
export async function readSound(bytes, sampleRate) {
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
  } catch {
    throw new Error("this is no sound file that the browser can read: try wav, mp3, flac, m4a or ogg");
  }
  if (!buffer.length) throw new Error("the file holds no sound");
  requireShort(buffer.duration);
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const values = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += values[i] / buffer.numberOfChannels;
  }
  return mono;
}

/** @param {number} seconds */
export function requireShort(seconds) {
  if (seconds > MAX_SECONDS) {
    throw new Error(
      `the sound lasts ${(seconds / 60).toFixed(1)} minutes, and this page takes at most ${MAX_SECONDS / 60}: ` +
        "use the command line (mimotok encode) for longer ones",
    );
  }
}

/**
 * Write sound as a wav file of 16 bits, scaled as `mimotok decode` scales it.
 * @param {Float32Array} wav
 * @param {number} sampleRate
 * @returns {Blob}
 */
export function writeWav(wav, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wav.length));
  const words = [0x46464952, 36 + 2 * wav.length, 0x45564157, 0x20746d66, 16];
  words.forEach((word, i) => view.setUint32(4 * i, word, true));
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  view.setUint32(36, 0x61746164, true);
  view.setUint32(40, 2 * wav.length, true);
  for (let i = 0; i < wav.length; i++) {
    view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, wav[i]))), true);
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** A recording from the microphone, as it came: without compression and without the browser's noise suppression. */
export class Recorder {
  /** @param {AudioContext} context @param {MediaStream} stream @param {AudioWorkletNode} node */
  constructor(context, stream, node) {
    this.context = context;
    this.stream = stream;
    /** @type {Float32Array[]} */
    this.blocks = [];
    this.samples = 0;
    /** Called with the loudest sample of each block, 0 to 1. @type {(peak: number) => void} */
    this.onlevel = () => {};
    /** Called when the last block has come. */
    this.onend = () => {};
    this.port = node.port;
    this.port.onmessage = ({ data }) => {
      if (data === null) {
        this.onend();
        return;
      }
      this.blocks.push(data);
      this.samples += data.length;
      this.onlevel(data.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0));
    };
  }

  /** Ask for the microphone and begin. */
  static async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("this browser gives no microphone to this address: use https or 127.0.0.1, or choose a file");
    }
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch((error) => {
      throw new Error(`the microphone cannot be used (${error.message || error.name}): allow it, or choose a file`);
    });
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 1, channelCount: 1 });
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);
    await context.resume();
    return new Recorder(context, stream, node);
  }

  get seconds() {
    return this.samples / this.context.sampleRate;
  }

  /** End the recording and let go of the microphone. */
  async stop() {
    await new Promise((resolve) => {
      this.onend = () => resolve(undefined);
      // a context that the browser has suspended answers nothing
      setTimeout(resolve, 500);
      this.port.postMessage("end");
    });
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
  }

  /**
   * Return what was recorded.
   * @param {number} sampleRate to resample to
   * @returns {Promise<Float32Array>} mono
   */
  async sound(sampleRate) {
    if (!this.samples) throw new Error("nothing was recorded: is the microphone on?");
    const rate = this.context.sampleRate;
    const length = Math.max(1, Math.round(this.seconds * sampleRate));
    const offline = new OfflineAudioContext(1, length, sampleRate);
    const buffer = offline.createBuffer(1, this.samples, rate);
    let position = 0;
    for (const block of this.blocks) {
      buffer.copyToChannel(block, 0, position);
      position += block.length;
    }
    const source = offline.createBufferSource();
    source.buffer = buffer;
    source.connect(offline.destination);
    source.start();
    return (await offline.startRendering()).getChannelData(0);
  }
}
