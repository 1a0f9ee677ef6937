/** Passes the microphone's samples on to the page in blocks, and lets nothing through to the loudspeaker. */

const BLOCK = 4096;

class RecorderProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    // Asked for the rest, it answers with null after it.
    this.port.onmessage = () => {
      if (this.filled) this.port.postMessage(this.block.slice(0, this.filled));
      this.filled = 0;
      this.port.postMessage(null);
    };
  }

  process([input]) {
    for (const value of input[0] ?? []) {
      this.block[this.filled++] = value;
      if (this.filled === BLOCK) {
        this.port.postMessage(this.block);
        this.block = new Float32Array(BLOCK);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", RecorderProcessor);
