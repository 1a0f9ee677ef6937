/** A blind test: two versions under letters drawn by chance, and how often the listener named the original. */

export const LETTERS = ["A", "B"];

/** The rounds of one listener. */
export class BlindTest {
  /**
   * @param {string} original the name of the version to be recognised
   * @param {string} other
   * @param {() => number} random gives numbers from 0 to 1
   */
  constructor(original, other, random = Math.random) {
    this.names = [original, other];
    this.random = random;
    this.right = 0;
    this.rounds = 0;
    this.draw();
  }

  /** Draw which version is behind which letter. */
  draw() {
    this.swapped = this.random() < 0.5;
  }

  /** @param {string} letter @returns {string} the version behind it */
  behind(letter) {
    const place = LETTERS.indexOf(letter);
    return this.names[this.swapped ? 1 - place : place];
  }

  /**
   * Take a guess, count it and draw anew.
   * @param {string} letter which the listener takes for the original
   * @returns {{right: boolean, original: string}} original: the letter that it had
   */
  guess(letter) {
    const right = this.behind(letter) === this.names[0];
    const original = LETTERS[this.swapped ? 1 : 0];
    this.rounds += 1;
    this.right += Number(right);
    this.draw();
    return { right, original };
  }

  /** The chance that guessing alone does at least as well. */
  chance() {
    let sum = 0;
    let ways = 1;
    for (let right = 0; right <= this.rounds; right++) {
      if (right >= this.right) sum += ways;
      ways = (ways * (this.rounds - right)) / (right + 1);
    }
    return sum / 2 ** this.rounds;
  }
}
