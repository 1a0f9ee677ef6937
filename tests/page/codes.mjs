// Reads and writes codes files by the page's own modules in Node. Usage: node codes.mjs SITE_FOLDER FILE...
// Each FILE is read, and written again beside it with the suffix .again; a refusal is printed in its place.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [site, ...files] = process.argv.slice(2);
const { readCodes, writeCodes } = await import(pathToFileURL(join(site, "js/codes-file.js")).href);
for (const file of files) {
  try {
    await writeFile(`${file}.again`, await writeCodes(await readCodes(new Uint8Array(await readFile(file)))));
    console.log("read");
  } catch (error) {
    console.log(error.message);
  }
}
