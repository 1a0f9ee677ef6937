/** A discrete Fourier transform of any length, fast where the length has small factors only. */

/** The transform of one length: its factors and its table of roots of unity, made once. */
export class Fft {
  /** @param {number} size how many complex values are transformed at once */
  constructor(size) {
    this.size = size;
    this.factors = smallFactors(size);
    this.cosine = new Float64Array(size);
    this.sine = new Float64Array(size);
    for (let i = 0; i < size; i++) {
      this.cosine[i] = Math.cos((2 * Math.PI * i) / size);
      this.sine[i] = -Math.sin((2 * Math.PI * i) / size);
    }
    this.spareReal = new Float64Array(size);
    this.spareImaginary = new Float64Array(size);
    const widest = Math.max(1, ...this.factors);
    this.partReal = new Float64Array(widest);
    this.partImaginary = new Float64Array(widest);
  }

  /**
   * Transform in place: X[k] = sum of x[t] exp(-2 pi i k t / size), without a factor.
   * With the two arrays exchanged, this is the inverse transform times `size`.
   * @param {Float64Array} real
   * @param {Float64Array} imaginary
   */
  transform(real, imaginary) {
    let fromReal = real;
    let fromImaginary = imaginary;
    let toReal = this.spareReal;
    let toImaginary = this.spareImaginary;
    let done = 1;
    for (const factor of this.factors) {
      this.combine(factor, done, fromReal, fromImaginary, toReal, toImaginary);
      [fromReal, toReal] = [toReal, fromReal];
      [fromImaginary, toImaginary] = [toImaginary, fromImaginary];
      done *= factor;
    }
    if (fromReal !== real) {
      real.set(fromReal);
      imaginary.set(fromImaginary);
    }
  }

  /** Join `factor` transforms of length `done` each into one, for every group of them (Stockham's order). */
  combine(factor, done, fromReal, fromImaginary, toReal, toImaginary) {
    const { size, cosine, sine, partReal, partImaginary } = this;
    const groups = size / (done * factor);
    const turn = size / factor;
    for (let group = 0; group < groups; group++) {
      for (let j = 0; j < done; j++) {
        for (let q = 0; q < factor; q++) {
          const index = (group + groups * q) * done + j;
          const root = q * j * groups;
          partReal[q] = fromReal[index] * cosine[root] - fromImaginary[index] * sine[root];
          partImaginary[q] = fromReal[index] * sine[root] + fromImaginary[index] * cosine[root];
        }
        for (let p = 0; p < factor; p++) {
          let sumReal = partReal[0];
          let sumImaginary = partImaginary[0];
          for (let q = 1; q < factor; q++) {
            const root = ((p * q) % factor) * turn;
            sumReal += partReal[q] * cosine[root] - partImaginary[q] * sine[root];
            sumImaginary += partReal[q] * sine[root] + partImaginary[q] * cosine[root];
          }
          const index = group * done * factor + j + done * p;
          toReal[index] = sumReal;
          toImaginary[index] = sumImaginary;
        }
      }
    }
  }
}

/** @param {number} size */
function smallFactors(size) {
  const factors = [];
  let rest = size;
  for (let factor = 4; rest > 1; ) {
    if (rest % factor === 0) {
      factors.push(factor);
      rest /= factor;
    } else {
      factor = { 4: 2, 2: 3 }[factor] ?? factor + 2;
    }
  }
  return factors;
}

/** @param {number} size @returns {Float64Array} the periodic Hann window */
export function hannWindow(size) {
  return Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
}
