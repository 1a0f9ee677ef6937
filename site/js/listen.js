/** The controls of the player, and the blind test. */

import { BlindTest, LETTERS } from "./blind.js";
import { showError } from "./messages.js";
import { Player, clock } from "./player.js";

const get = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const STEP_SECONDS = 2;

/** The page's player with its two versions, "original" and "decoded". */
export class Listening {
  constructor() {
    this.player = new Player();
    this.blind = new BlindTest("original", "decoded");
    /** @type {Map<string, string>} */
    this.sources = new Map();
    this.player.addEventListener("change", () => this.show());
    this.player.addEventListener("time", () => this.showTime());
    this.player.addEventListener("fail", () => showError("the browser cannot play this sound: press play once more"));
    get("play").addEventListener("click", () => this.toggle());
    get("seek").addEventListener("input", () => this.player.seek(Number(get("seek").value)));
    for (const group of ["versions", "letters"]) get(group).addEventListener("change", () => this.choose());
    get("blind").addEventListener("toggle", () => this.showMode());
    for (const letter of LETTERS) get(`guess-${letter.toLowerCase()}`).addEventListener("click", () => this.guess(letter));
    get("blind-reset").addEventListener("click", () => this.startOver());
    document.addEventListener("keydown", (event) => this.key(event));
    for (const picture of document.querySelectorAll(".picture")) {
      picture.addEventListener("click", (event) => this.seekAt(/** @type {MouseEvent} */ (event)));
    }
  }

  /**
   * Play other sound, from the same position if it is another version of the same recording.
   * @param {Blob | null} original null where there is none, as for codes from a file
   * @param {Blob} decoded
   */
  load(original, decoded) {
    const position = this.player.position;
    const playing = this.player.playing;
    const sameRecording = original !== null && original === this.original;
    this.original = original;
    for (const url of this.sources.values()) URL.revokeObjectURL(url);
    this.sources = new Map([["decoded", URL.createObjectURL(decoded)]]);
    if (original) this.sources.set("original", URL.createObjectURL(original));
    this.player.load(this.sources);
    this.player.open();
    if (!sameRecording) this.startOver();
    const blindPossible = original !== null;
    get("blind").hidden = !blindPossible;
    if (!blindPossible) get("blind").open = false;
    const [first, second] = get("versions").querySelectorAll("input");
    first.disabled = !blindPossible;
    if (!blindPossible) second.checked = true;
    this.showMode();
    if (sameRecording) {
      this.player.seek(position);
      if (playing) this.player.play();
    }
  }

  get isBlind() {
    return get("blind").open;
  }

  toggle() {
    this.player.toggle();
  }

  /** Hear the version that the buttons show. */
  choose() {
    const group = this.isBlind ? "letter" : "version";
    const chosen = /** @type {HTMLInputElement} */ (document.querySelector(`input[name=${group}]:checked`)).value;
    this.player.select(this.isBlind ? this.blind.behind(chosen) : chosen);
  }

  /** Show names or letters, never both: the names would give the answer away. */
  showMode() {
    get("versions").hidden = this.isBlind;
    get("letters").hidden = !this.isBlind;
    if (this.sources.size) this.choose();
  }

  /** @param {string} letter */
  guess(letter) {
    const { right, original } = this.blind.guess(letter);
    this.player.pause();
    const verdict = right ? "Right" : "Wrong";
    const { right: hits, rounds } = this.blind;
    const chance = Math.round(100 * this.blind.chance());
    get("score").textContent =
      `${verdict}: ${original} was the original. Score: ${hits} of ${rounds}; guessing does as well in ${chance} % of cases. ` +
      "A and B were drawn anew.";
    this.choose();
  }

  startOver() {
    this.blind = new BlindTest("original", "decoded");
    get("score").textContent = "No rounds yet.";
    if (this.sources.size) this.choose();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const typing = target.matches("input, select, textarea, summary, button, a, label.button");
    if (get("result").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "x" || event.key === "X") {
      const inputs = [...document.querySelectorAll(`input[name=${this.isBlind ? "letter" : "version"}]:not(:disabled)`)];
      const other = /** @type {HTMLInputElement} */ (inputs.find((input) => !(/** @type {any} */ (input).checked)));
      if (other) other.checked = true;
      this.choose();
      return;
    }
    // These keys already mean something where they are typed.
    if (typing) return;
    if (event.key === " ") this.toggle();
    else if (event.key === "ArrowLeft") this.player.seek(Math.max(0, this.player.position - STEP_SECONDS));
    else if (event.key === "ArrowRight") this.player.seek(Math.min(this.player.duration, this.player.position + STEP_SECONDS));
    else return;
    event.preventDefault();
  }

  /** @param {MouseEvent} event */
  seekAt(event) {
    const box = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
    this.player.seek(((event.clientX - box.left) / box.width) * this.player.duration);
  }

  show() {
    get("play").classList.toggle("on", this.player.playing);
    get("play").setAttribute("aria-label", this.player.playing ? "Pause" : "Play");
    this.showTime();
    if (this.player.playing) requestAnimationFrame(() => this.follow());
  }

  /** Move the marks in the pictures smoothly: the browser tells the time four times a second only. */
  follow() {
    this.showTime();
    if (this.player.playing) requestAnimationFrame(() => this.follow());
  }

  showTime() {
    const { position, duration } = this.player;
    get("seek").max = duration || 1;
    get("seek").value = position;
    get("seek").setAttribute("aria-valuetext", `${clock(position)} of ${clock(duration)}`);
    get("time").textContent = `${clock(position)} / ${clock(duration)}`;
    const share = duration ? (100 * position) / duration : 0;
    for (const head of document.querySelectorAll(".head")) /** @type {HTMLElement} */ (head).style.left = `${share}%`;
  }
}
