/** Pictures of sound and of codes, drawn on canvases. */

import { Fft, hannWindow } from "./fft.js";

const FFT_SIZE = 1024;
const RANGE_DB = 80;
// Dark violet over red to pale yellow, equal steps of which look equal.
const COLOURS = [
  [4, 4, 20], [40, 17, 89], [99, 25, 127], [158, 47, 127], [217, 70, 107], [248, 118, 92], [254, 180, 122], [252, 253, 191],
]; // prettier-ignore

/** Fit a canvas to its place on the page, in the screen's own pixels. */
function fitted(canvas) {
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/**
 * Draw the loudest and lowest sample of each column.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} wav
 */
export function drawWaveform(canvas, wav) {
  const context = fitted(canvas);
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x++) {
    const start = Math.floor((x * wav.length) / width);
    const end = Math.max(start + 1, Math.floor(((x + 1) * wav.length) / width));
    let low = 0;
    let high = 0;
    for (let i = start; i < end && i < wav.length; i++) {
      low = Math.min(low, wav[i]);
      high = Math.max(high, wav[i]);
    }
    const top = ((1 - Math.min(1, high)) * height) / 2;
    const bottom = ((1 - Math.max(-1, low)) * height) / 2;
    context.fillRect(x, top, 1, Math.max(1, bottom - top));
  }
}

/**
 * Draw a spectrogram, a spectrum for each column; frequency grows upwards on the mel scale.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} wav
 * @param {number} sampleRate
 */
export function drawSpectrogram(canvas, wav, sampleRate) {
  const context = fitted(canvas);
  const { width, height } = canvas;
  const image = context.createImageData(width, height);
  const fft = new Fft(FFT_SIZE);
  const window = hannWindow(FFT_SIZE);
  const real = new Float64Array(FFT_SIZE);
  const imaginary = new Float64Array(FFT_SIZE);
  const edges = melEdges(height, sampleRate);
  for (let x = 0; x < width; x++) {
    const first = Math.round(((x + 0.5) * wav.length) / width) - FFT_SIZE / 2;
    for (let i = 0; i < FFT_SIZE; i++) real[i] = (wav[first + i] ?? 0) * window[i];
    imaginary.fill(0);
    fft.transform(real, imaginary);
    for (let y = 0; y < height; y++) {
      let most = 0;
      for (let bin = edges[y].low; bin <= edges[y].high; bin++) most = Math.max(most, real[bin] ** 2 + imaginary[bin] ** 2);
      // 0 dB: a sine of full scale, whose magnitude is a quarter of the transform's size
      const decibels = 10 * Math.log10(most / (FFT_SIZE / 4) ** 2 + 1e-12);
      paint(image, x, height - 1 - y, 1 + decibels / RANGE_DB);
    }
  }
  context.putImageData(image, 0, 0);
}

/** The bins of each line of the picture, from the bottom. */
function melEdges(height, sampleRate) {
  const top = 2595 * Math.log10(1 + sampleRate / 2 / 700);
  const bin = (y) => ((700 * (10 ** ((top * y) / height / 2595) - 1)) / sampleRate) * FFT_SIZE;
  return Array.from({ length: height }, (_, y) => {
    const low = Math.round(bin(y));
    return { low, high: Math.max(low, Math.min(FFT_SIZE / 2, Math.round(bin(y + 1)) - 1)) };
  });
}

/**
 * Draw codes: a line for each codebook, the first on top, and a column for each frame.
 * @param {HTMLCanvasElement} canvas
 * @param {import("./codes-file.js").Codes} codes
 * @param {number[]} sizes of the codebooks
 */
export function drawCodes(canvas, codes, sizes) {
  const context = fitted(canvas);
  const { width, height } = canvas;
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    const book = Math.floor((y * codes.nQ) / height);
    for (let x = 0; x < width; x++) {
      const frame = Math.floor((x * codes.frames) / width);
      paint(image, x, y, codes.values[book * codes.frames + frame] / (sizes[book] - 1 || 1));
    }
  }
  context.putImageData(image, 0, 0);
}

/** Colour a pixel by a value, 0 to 1. */
function paint(image, x, y, value) {
  const place = Math.max(0, Math.min(1, value)) * (COLOURS.length - 1);
  const index = Math.min(COLOURS.length - 2, Math.floor(place));
  const part = place - index;
  const offset = 4 * (y * image.width + x);
  for (let channel = 0; channel < 3; channel++) {
    const from = COLOURS[index][channel];
    image.data[offset + channel] = from + part * (COLOURS[index + 1][channel] - from);
  }
  image.data[offset + 3] = 255;
}
