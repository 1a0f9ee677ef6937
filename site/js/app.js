/** The page: a sound or codes come in, and are heard, seen and saved. */

import { Recorder, readSound, requireShort, writeWav, MAX_SECONDS } from "./audio.js";
import { bitrate, describeCodes, firstCodebooks, readCodes, requireFitting, writeCodes } from "./codes-file.js";
import { Listening } from "./listen.js";
import { FileError, hideError, hideProgress, say, showError, showProgress } from "./messages.js";
import { Model } from "./model.js";
import { drawCodes, drawSpectrogram, drawWaveform } from "./pictures.js";
import { clock } from "./player.js";

/**
 * @typedef {object} Recording
 * @property {string} name
 * @property {Float32Array | null} original null where only codes are known
 * @property {Blob | null} originalBlob
 * @property {import("./codes-file.js").Codes} codes all codebooks that there are
 * @property {number} numSamples
 * @property {Float32Array} decoded
 * @property {Uint8Array} codesFile of the codes that are heard
 * @property {Blob} decodedBlob
 */

const get = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {Model} */
let model;
/** @type {Record<string, any>} */
let facts;
/** @type {{sample: string}} */
let page;
/** @type {Recording | null} */
let recording = null;
/** @type {Recorder | null} */
let recorder = null;
let nQ = 0;
let busy = false;
const listening = new Listening();

/**
 * Do one thing at a time, and show the error where it fails.
 * @param {() => Promise<void>} work
 */
async function alone(work) {
  if (busy) return;
  const focused = /** @type {HTMLElement} */ (document.activeElement);
  busy = true;
  hideError();
  enable();
  try {
    await work();
  } catch (error) {
    showError(error);
    say("");
  }
  busy = false;
  hideProgress();
  enable();
  // A control that was disabled meanwhile has lost the keyboard.
  if (document.activeElement === document.body) focused.focus({ preventScroll: true });
}

/** What cannot be used now is disabled. The place of the keyboard is kept: the slider stays enabled. */
function enable() {
  for (const id of ["sample", "file", "save-wav", "save-npz"]) get(id).disabled = busy || recorder !== null;
  get("record").disabled = busy;
}

async function loadModel() {
  model.onload = (done) => showProgress("Loading the model:", done);
  const { facts: loaded } = await model.load();
  facts = loaded;
  get("size-hint").hidden = true;
  const slider = get("codebooks");
  if (Number(slider.max) !== facts.codebook_sizes.length) slider.max = facts.codebook_sizes.length;
  if (!nQ) slider.value = nQ = facts.default_n_q;
}

/** @param {string} name @param {Float32Array} wav */
async function takeSound(name, wav) {
  requireShort(wav.length / facts.sample_rate);
  showProgress("Encoding:", 0);
  const codes = await model.encode(wav, (done) => showProgress("Encoding:", done));
  await hear({ name, codes, numSamples: wav.length, original: wav, originalBlob: writeWav(wav, facts.sample_rate) });
}

/** @param {File} file */
async function takeFile(file) {
  if (!file.size) throw new FileError(file.name, "empty file (0 bytes)");
  await loadModel();
  const bytes = await file.arrayBuffer().catch(() => {
    throw new FileError(file.name, "cannot be read");
  });
  try {
    if (file.name.toLowerCase().endsWith(".npz")) await takeCodes(file.name, new Uint8Array(bytes));
    else await takeSound(file.name, await readSound(bytes, facts.sample_rate));
  } catch (error) {
    throw new FileError(file.name, /** @type {Error} */ (error).message);
  }
}

/** @param {string} name @param {Uint8Array} bytes */
async function takeCodes(name, bytes) {
  const file = await readCodes(bytes);
  requireFitting(facts, file);
  requireShort(file.numSamples / file.sampleRate);
  get("codebooks").max = file.codes.nQ;
  get("codebooks").value = file.codes.nQ;
  await hear({ name, codes: file.codes, numSamples: file.numSamples, original: null, originalBlob: null });
}

/** Decode a recording with as many codebooks as the slider says, and anew where it has moved meanwhile. */
async function hear(known) {
  get("codebooks").max = known.codes.nQ;
  do {
    nQ = Number(get("codebooks").value);
    showCodebooks();
    await decode(known);
  } while (nQ !== Number(get("codebooks").value));
}

/** Decode a recording with nQ codebooks and show it. */
async function decode(known) {
  const codes = firstCodebooks(known.codes, nQ);
  showProgress("Decoding:", 0);
  const decoded = await model.decode(codes, known.numSamples, (done) => showProgress("Decoding:", done));
  const isFirst = recording?.codes !== known.codes;
  const codesFile = await writeCodes(describeCodes(facts, codes, known.numSamples));
  recording = { ...known, decoded, codesFile, decodedBlob: writeWav(decoded, facts.sample_rate) };
  get("result").hidden = false;
  hideProgress();
  show();
  listening.load(recording.originalBlob, recording.decodedBlob);
  if (isFirst) {
    get("result").focus({ preventScroll: true });
    get("result").scrollIntoView({ block: "nearest" });
  }
  say(`Ready: ${known.name}, ${get("bitrate").textContent}. Press Space to play.`);
}

function sizes() {
  return facts.codebook_sizes.slice(0, nQ);
}

function showCodebooks() {
  const bits = bitrate(facts.codebook_sizes.slice(0, Number(get("codebooks").value)), facts.sample_rate / facts.frame_size);
  const text = `${get("codebooks").value} of ${get("codebooks").max}: ${kilobits(bits)}`;
  get("codebooks-value").textContent = text;
  get("codebooks").setAttribute("aria-valuetext", text);
}

function show() {
  const { name, original, decoded, codes, numSamples } = recording;
  const seconds = numSamples / facts.sample_rate;
  const bits = bitrate(sizes(), facts.sample_rate / facts.frame_size);
  const codeBytes = Math.ceil((codes.frames * sizes().reduce((sum, size) => sum + Math.log2(size), 0)) / 8);
  const wavBytes = 44 + 2 * numSamples;
  get("name").textContent = original ? name : `${name}: codes only, so there is no original to compare with.`;
  get("bitrate").textContent = kilobits(bits);
  get("seconds").textContent = `${seconds.toFixed(2)} s`;
  get("code-bytes").textContent = size(codeBytes);
  get("npz-bytes").textContent = size(recording.codesFile.length);
  get("wav-bytes").textContent = size(wavBytes);
  get("ratio").textContent = `1 : ${Math.round(wavBytes / codeBytes)}`;
  get("codes-caption").textContent = `Codes: ${nQ} × ${codes.frames}`;
  get("original-pictures").hidden = original === null;
  const highest = Number((facts.sample_rate / 2000).toFixed(2));
  get("spectrum-original").setAttribute("aria-label", `Spectrogram of the original, 0 to ${highest} kHz`);
  get("spectrum-decoded").setAttribute("aria-label", `Spectrogram of the decoded sound, 0 to ${highest} kHz`);
  get("highest").textContent = highest;
  get("frame-ms").textContent = Number(((1000 * facts.frame_size) / facts.sample_rate).toFixed(2));
  get("about").textContent =
    `Model ${facts.model} (${facts.sample_rate / 1000} kHz, sha256 ${facts.weights_sha256.slice(0, 12)}), run by onnxruntime-web in your browser.`;
  if (original) {
    drawWaveform(get("wave-original"), original);
    drawSpectrogram(get("spectrum-original"), original, facts.sample_rate);
  }
  drawWaveform(get("wave-decoded"), decoded);
  drawSpectrogram(get("spectrum-decoded"), decoded, facts.sample_rate);
  drawCodes(get("codes"), firstCodebooks(codes, nQ), sizes());
}

function kilobits(bits) {
  return `${Number((bits / 1000).toFixed(2))} kbit/s`;
}

function size(bytes) {
  if (bytes < 100_000) return `${bytes.toLocaleString("en")} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function startRecording() {
  recorder = await Recorder.start();
  recorder.onlevel = (peak) => {
    get("level").value = peak;
    get("recorded").textContent = `${clock(recorder?.seconds ?? 0)} of ${clock(MAX_SECONDS)} at most`;
    if (recorder && recorder.seconds >= MAX_SECONDS) get("record").click();
  };
  get("recording").hidden = false;
  get("record").textContent = "Stop recording";
  say("Recording. Press the button again to stop.");
  // Speaking takes as long as loading does.
  model.load().catch(() => {});
}

async function stopRecording() {
  const ended = recorder;
  recorder = null;
  get("recording").hidden = true;
  get("record").textContent = "Record";
  await ended.stop();
  await loadModel();
  // A last block may have been longer than what is allowed.
  const wav = await ended.sound(facts.sample_rate);
  await takeSound("Recording", wav.subarray(0, MAX_SECONDS * facts.sample_rate));
}

async function trySample() {
  await loadModel();
  const response = await fetch(page.sample).catch(() => null);
  if (!response?.ok) throw new Error("the sample could not be loaded: reload the page");
  await takeSound("Sample", await readSound(await response.arrayBuffer(), facts.sample_rate));
}

/** @param {Blob} blob @param {string} suffix */
function save(blob, suffix) {
  const link = document.createElement("a");
  const stem = recording.name.replace(/\.[^.]*$/, "").toLowerCase() || "sound";
  link.href = URL.createObjectURL(blob);
  link.download = `${stem}-${nQ}${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Decode anew where the slider has moved; what is at work looks at it by itself. */
async function changeCodebooks() {
  showCodebooks();
  if (busy || !recording || nQ === Number(get("codebooks").value)) return;
  await alone(() => hear(recording));
}

function redraw() {
  if (recording && !busy) show();
}

async function start() {
  get("record").addEventListener("click", () => alone(recorder ? stopRecording : startRecording));
  get("sample").addEventListener("click", () => alone(trySample));
  get("file").addEventListener("change", () => {
    const [file] = get("file").files;
    get("file").value = "";
    if (file) alone(() => takeFile(file));
  });
  const drop = get("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (file && !recorder) alone(() => takeFile(file));
  });
  get("codebooks").addEventListener("input", () => changeCodebooks());
  get("save-wav").addEventListener("click", () => save(recording.decodedBlob, ".wav"));
  get("save-npz").addEventListener("click", () => save(new Blob([recording.codesFile], { type: "application/octet-stream" }), ".npz"));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) redraw();
    width = window.innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const response = await fetch("page.json").catch(() => null);
  if (!response?.ok) throw new Error("page.json is missing: build this folder with mimotok page or make page");
  page = await response.json();
  model = new Model(page.files);
  get("sample").hidden = !page.sample;
  get("size-hint").textContent = `The model (${(model.bytes / 1e6).toFixed(0)} MB) is loaded once, with the first sound.`;
  document.documentElement.dataset.ready = "true";
}

alone(start);
