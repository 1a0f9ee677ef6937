/** The page's side of the worker: each request is a promise. */

/** @typedef {import("./codes-file.js").Codes} Codes */
/** @typedef {(done: number) => void} Progress takes the share that is done, 0 to 1 */

/** The model, which is loaded when it is first asked for. */
export class Model {
  /** @param {Record<string, number>} sizes the bytes of each file to load */
  constructor(sizes) {
    this.sizes = sizes;
    this.bytes = Object.values(sizes).reduce((sum, size) => sum + size, 0);
    this.next = 0;
    /** @type {Map<number, {resolve: Function, reject: Function, progress: Progress}>} */
    this.waiting = new Map();
    /** @type {Worker | null} */
    this.worker = null;
    /** @type {Promise<{facts: Record<string, any>, threads: number}> | null} */
    this.loaded = null;
    /** @type {Progress} */
    this.onload = () => {};
  }

  /** Load the graphs and the runtime, once. A load that failed is tried anew. */
  load() {
    if (!this.loaded) {
      this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
      this.worker.onmessage = ({ data }) => this.receive(data);
      this.worker.onerror = (event) => this.fail(new Error(event.message || "the worker could not be started"));
      const root = new URL("..", import.meta.url).href;
      this.loaded = this.ask("load", { root, sizes: this.sizes }, (done) => this.onload(done));
      this.loaded.catch(() => {
        this.worker?.terminate();
        this.loaded = null;
      });
    }
    return this.loaded;
  }

  /** @param {Float32Array} wav @param {Progress} progress @returns {Promise<Codes>} */
  async encode(wav, progress) {
    await this.load();
    return this.ask("encode", { wav }, progress);
  }

  /** @param {Codes} codes @param {number} numSamples @param {Progress} progress @returns {Promise<Float32Array>} */
  async decode(codes, numSamples, progress) {
    await this.load();
    return this.ask("decode", { codes, numSamples }, progress);
  }

  /** @param {string} kind @param {any} request @param {Progress} progress @returns {Promise<any>} */
  ask(kind, request, progress) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.worker?.postMessage({ id, kind, request });
    });
  }

  receive({ id, progress, result, error }) {
    const request = this.waiting.get(id);
    if (!request) return;
    if (progress !== undefined) {
      request.progress(progress);
      return;
    }
    this.waiting.delete(id);
    if (error === undefined) request.resolve(result);
    else request.reject(new Error(error));
  }

  /** @param {Error} error */
  fail(error) {
    for (const request of this.waiting.values()) request.reject(error);
    this.waiting.clear();
  }
}
