/** Archives of arrays as numpy.savez and savez_compressed write them: reading is strict, writing takes the fewest bytes. */

/**
 * @typedef {object} NpyArray
 * @property {string} dtype such as "<u2", as numpy writes it
 * @property {number[]} shape empty for a single value
 * @property {Uint8Array} bytes of the values, in C order
 */

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const LOCAL_SIZE = 30;
const CENTRAL_SIZE = 46;
const END_SIZE = 22;
// What zipfile gives an entry without a date: the first day of 1980.
const DATE = 33;
const VERSION = 20;
const UNIX = 3;
const OWNER_MAY_READ_AND_WRITE = 0o600 << 16;
const MAX_ENTRIES = 64;
const STORED = 0;
const DEFLATED = 8;
// What may be inflated: the codes of a day of sound. Longer recordings are stored.
export const MAX_INFLATED = 1 << 24;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * Write an archive, each array stored or deflated, whichever is smaller.
 * @param {Record<string, NpyArray>} arrays by name
 * @returns {Promise<Uint8Array>} the .npz file
 */
export async function writeNpz(arrays) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [field, array] of Object.entries(arrays)) {
    const name = new TextEncoder().encode(`${field}.npy`);
    const data = writeNpy(array);
    const deflated = await deflate(data);
    const isSmaller = deflated.length < data.length && data.length <= MAX_INFLATED;
    const content = isSmaller ? deflated : data;
    const facts = [u16(VERSION, 0, isSmaller ? DEFLATED : STORED, 0, DATE), u32(crc32(data), content.length, data.length)];
    const local = [u32(LOCAL), ...facts, u16(name.length, 0), name, content];
    directory.push(u32(CENTRAL), Uint8Array.of(VERSION, UNIX), ...facts, u16(name.length, 0, 0, 0, 0));
    directory.push(u32(OWNER_MAY_READ_AND_WRITE, offset), name);
    const entry = joined(local);
    parts.push(entry);
    offset += entry.length;
  }
  const listing = joined(directory);
  const count = Object.keys(arrays).length;
  return joined([...parts, listing, u32(END), u16(0, 0, count, count), u32(listing.length, offset), u16(0)]);
}

/** @param {NpyArray} array @returns {Uint8Array} the .npy file */
function writeNpy({ dtype, shape, bytes }) {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  // numpy pads this header to 64 bytes, which its reader does not ask for.
  const header = `{'descr': '${dtype}', 'fortran_order': False, 'shape': ${tuple}, }\n`;
  const magic = Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0);
  return joined([magic, u16(header.length), new TextEncoder().encode(header), bytes]);
}

/**
 * Compress bytes, as an archive holds them.
 * @param {Uint8Array} data
 * @returns {Promise<Uint8Array>}
 */
async function deflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Invert `deflate`. Throws an error where anything but `size` bytes comes out, and inflates hardly more than that.
 * @param {Uint8Array} data
 * @param {number} size
 * @returns {Promise<Uint8Array>}
 */
async function inflate(data, size) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let found = 0;
  while (found <= size) {
    // whatever is wrong with the bytes, they are damaged
    const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
    if (done) break;
    parts.push(value);
    found += value.length;
  }
  await reader.cancel().catch(() => undefined);
  requireWhole(found === size);
  return joined(parts);
}

/**
 * Read an archive that numpy.savez or savez_compressed wrote.
 * @param {Uint8Array} bytes the .npz file
 * @returns {Promise<Record<string, NpyArray>>} by name
 */
export async function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - END_SIZE;
  if (end < 0 || view.getUint32(end, true) !== END) throw new Error("not a codes file (.npz), or truncated");
  const count = view.getUint16(end + 10, true);
  if (count > MAX_ENTRIES) throw new Error(`${count} fields, expected at most ${MAX_ENTRIES}`);
  /** @type {Record<string, NpyArray>} */
  const arrays = {};
  let position = view.getUint32(end + 16, true);
  for (let i = 0; i < count; i++) {
    requireWhole(position + CENTRAL_SIZE <= end && view.getUint32(position, true) === CENTRAL);
    const compression = view.getUint16(position + 10, true);
    const crc = view.getUint32(position + 16, true);
    const storedSize = view.getUint32(position + 20, true);
    const size = view.getUint32(position + 24, true);
    const nameSize = view.getUint16(position + 28, true);
    const skipped = view.getUint16(position + 30, true) + view.getUint16(position + 32, true);
    const local = view.getUint32(position + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(position + CENTRAL_SIZE, position + CENTRAL_SIZE + nameSize));
    if (compression !== STORED && compression !== DEFLATED) throw new Error(`${name} is compressed in a way that is not read`);
    if (compression === DEFLATED && size > MAX_INFLATED) {
      throw new Error(`${name} inflates to ${size} bytes, expected at most ${MAX_INFLATED}`);
    }
    requireWhole(compression === DEFLATED || storedSize === size);
    requireWhole(local + LOCAL_SIZE <= end && view.getUint32(local, true) === LOCAL);
    const start = local + LOCAL_SIZE + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    requireWhole(start + storedSize <= end);
    const content = bytes.subarray(start, start + storedSize);
    const data = compression === DEFLATED ? await inflate(content, size) : content;
    requireWhole(crc32(data) === crc);
    const field = name.replace(/\.npy$/, "");
    if (Object.hasOwn(arrays, field)) throw new Error(`two fields ${field}, expected one`);
    arrays[field] = readNpy(field, data);
    position += CENTRAL_SIZE + nameSize + skipped;
  }
  return arrays;
}

/** @param {string} field @param {Uint8Array} data @returns {NpyArray} */
function readNpy(field, data) {
  const problem = new Error(`${field}: not an array in .npy format 1.0`);
  if (data.length < 10 || data[0] !== 0x93 || data[6] !== 1 || data[7] !== 0) throw problem;
  const start = 10 + data[8] + 256 * data[9];
  const header = new TextDecoder("latin1").decode(data.subarray(10, start));
  const found = /^\{'descr': '([<|][a-zA-Z]\d+)', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n$/.exec(header);
  if (start > data.length || !found) throw problem;
  const shape = found[2].split(",").filter((part) => part.trim()).map(Number);
  const bytes = data.subarray(start);
  const width = Number(found[1].slice(2)) * (found[1][1] === "U" ? 4 : 1);
  if (shape.reduce((a, b) => a * b, width) !== bytes.length) {
    throw new Error(`${field}: ${found[1]} [${shape}] does not fill its ${bytes.length} bytes`);
  }
  return { dtype: found[1], shape, bytes };
}

/** @param {boolean} condition */
function requireWhole(condition) {
  if (!condition) throw new Error("not a codes file (.npz), truncated or damaged");
}

/** @param {...number} values */
function u16(...values) {
  return Uint8Array.from(values.flatMap((value) => [value & 255, (value >>> 8) & 255]));
}

/** @param {...number} values */
function u32(...values) {
  return joined(values.map((value) => u16(value & 0xffff, value >>> 16)));
}

/** @param {Uint8Array[]} parts */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}
