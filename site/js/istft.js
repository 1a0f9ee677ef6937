/** The inverse short-time Fourier transform with "same" padding, as mimotok's vocoder ends with it. */

import { Fft, hannWindow } from "./fft.js";

/**
 * Adds up windowed frames to sound. Frame f covers `nFft` samples from f * hop - (nFft - hop) / 2 on; the sum is divided
 * by the sum of the squared windows.
 */
export class InverseStft {
  /**
   * @param {number} nFft samples of a frame
   * @param {number} hop samples between frames
   * @param {number} frames of the whole sound
   */
  constructor(nFft, hop, frames) {
    this.nFft = nFft;
    this.hop = hop;
    this.frames = frames;
    this.crop = (nFft - hop) / 2;
    this.window = hannWindow(nFft);
    this.sound = new Float32Array(frames * hop);
    this.fft = new Fft(nFft);
    this.real = new Float64Array(nFft);
    this.imaginary = new Float64Array(nFft);
  }

  /**
   * Add frames to the sound.
   * @param {number} first where in the sound the first of these frames lies
   * @param {Float32Array} magnitude [frames, nFft / 2 + 1]
   * @param {Float32Array} phase of the same shape
   * @param {number} start the first frame to take from these arrays
   * @param {number} end the frame after the last one to take
   */
  add(first, magnitude, phase, start, end) {
    // Both frames of a pair are real, so one complex transform does them: the second as the imaginary part.
    for (let frame = start; frame < end; frame += 2) {
      this.real.fill(0);
      this.imaginary.fill(0);
      this.place(magnitude, phase, frame, false);
      if (frame + 1 < end) this.place(magnitude, phase, frame + 1, true);
      this.fft.transform(this.imaginary, this.real);
      this.overlap(first + frame - start, this.real);
      if (frame + 1 < end) this.overlap(first + frame + 1 - start, this.imaginary);
    }
  }

  /** Put a frame's spectrum, continued by its conjugate, into the transform's input, times i for the second of a pair. */
  place(magnitude, phase, frame, second) {
    const { nFft, real, imaginary } = this;
    const bins = nFft / 2 + 1;
    for (let bin = 0; bin < bins; bin++) {
      const size = magnitude[frame * bins + bin];
      const a = size * Math.cos(phase[frame * bins + bin]);
      // The first and the last bin of a real signal are real.
      const b = bin === 0 || bin === bins - 1 ? 0 : size * Math.sin(phase[frame * bins + bin]);
      real[bin] += second ? -b : a;
      imaginary[bin] += second ? a : b;
      if (bin > 0 && bin < bins - 1) {
        real[nFft - bin] += second ? b : a;
        imaginary[nFft - bin] += second ? a : -b;
      }
    }
  }

  overlap(frame, values) {
    const { sound, window, nFft } = this;
    const offset = frame * this.hop - this.crop;
    const end = Math.min(nFft, sound.length - offset);
    for (let i = Math.max(0, -offset); i < end; i++) sound[offset + i] += (values[i] / nFft) * window[i];
  }

  /** Divide by the windows' sum and return the sound. Call it once, after all frames were added. */
  finish() {
    const { sound, window, nFft, hop, crop, frames } = this;
    for (let i = 0; i < sound.length; i++) {
      const last = Math.min(frames - 1, Math.floor((i + crop) / hop));
      let sum = 0;
      for (let frame = last; frame >= 0; frame--) {
        const inside = i + crop - frame * hop;
        if (inside >= nFft) break;
        sum += window[inside] * window[inside];
      }
      sound[i] /= Math.max(sum, 1e-11);
    }
    return sound;
  }
}
