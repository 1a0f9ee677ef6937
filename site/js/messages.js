/** What the page says while it works, and when it fails. */

const get = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
// A screen reader hears of work at these shares only: it could not follow each step.
const SPOKEN = 0.25;
let spoken = -1;
let lastText = "";

/**
 * Show how far a piece of work is.
 * @param {string} text what is done
 * @param {number} done its share, 0 to 1
 */
export function showProgress(text, done) {
  get("work").hidden = false;
  get("work-text").textContent = `${text} ${Math.round(100 * done)} %`;
  get("progress").value = done;
  const step = Math.floor(done / SPOKEN);
  if (text !== lastText || step !== spoken) say(`${text} ${Math.round(100 * done)} %`);
  lastText = text;
  spoken = step;
}

export function hideProgress() {
  get("work").hidden = true;
  lastText = "";
}

/** Tell screen readers. @param {string} text */
export function say(text) {
  get("status").textContent = text;
}

/** An error of a file, whose message begins with the file's name. */
export class FileError extends Error {
  /** @param {string} file its name @param {string} message what is wrong with it */
  constructor(file, message) {
    super(`${file}: ${message}`);
  }
}

/** Show an error in one line: a sentence, or a file's name as it is and what is wrong with it. @param {unknown} error */
export function showError(error) {
  const message = error instanceof Error ? error.message : String(error);
  let line = message.replace(/\s+/g, " ").trim();
  if (!(error instanceof FileError)) line = line.charAt(0).toUpperCase() + line.slice(1);
  get("error").textContent = line + (/[.?!]$/.test(line) ? "" : ".");
  get("error").hidden = false;
}

export function hideError() {
  get("error").hidden = true;
}
