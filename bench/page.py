"""How fast is the page in a browser, and does it agree with Python? One run in Chromium without a window.

mimotok page --no-serve --out dist/page
python -m bench.page --page dist/page

Needs: pip install playwright, apt-get install chromium. Loading is from this machine: it is the time without a network.
"""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import numpy as np
import torch
from jsonargparse import CLI
from playwright.sync_api import sync_playwright

from bench.tables import Table
from mimotok.io.audio import load_audio
from mimotok.page.files import sample_path
from mimotok.page.serve import address, make_server
from mimotok.tokenizer import Tokenizer

# The page's own modules do the work; a name that is loaded anew for each call would measure the loading again.
MEASURE = """
async ({values, repeats, nQ}) => {
  const { Model } = await import("/js/model.js");
  const { firstCodebooks } = await import("/js/codes-file.js");
  const { files } = await (await fetch("/page.json")).json();
  const timed = async (work) => {
    const start = performance.now();
    const result = await work();
    return [result, (performance.now() - start) / 1000];
  };
  const model = new Model(files);
  const wav = Float32Array.from(values);
  const [{ threads }, load] = await timed(() => model.load());
  const encode = [];
  const decode = [];
  let codes;
  let sound;
  for (let i = 0; i < repeats; i++) {
    let seconds;
    [codes, seconds] = await timed(() => model.encode(wav, () => {}));
    encode.push(seconds);
    codes = firstCodebooks(codes, nQ);
    [sound, seconds] = await timed(() => model.decode(codes, wav.length, () => {}));
    decode.push(seconds);
  }
  return { load, threads, encode, decode, codes: Array.from(codes.values), sound: Array.from(sound) };
}
"""


def main(page: str, seconds: float = 10.0, repeats: int = 3, browser: str = "/usr/bin/chromium") -> None:
    """Print sizes, times and differences.

    Args:
        page: the folder that `mimotok page` made for the embedded checkpoint.
        seconds: of sound, the sample again and again.
        repeats: of encoding and decoding; the fastest counts.
        browser: the program.
    """
    tokenizer = Tokenizer.from_pretrained()
    sample = load_audio(sample_path(), tokenizer.sample_rate)
    length = round(seconds * tokenizer.sample_rate)
    wav = sample.repeat(1, length // sample.shape[1] + 1)[:, :length]
    n_q = tokenizer.config.checked_n_q(None)
    table = Table("", (f"The page, {seconds:g} s of sound, {n_q} codebooks", ""))
    request = {"values": wav[0].tolist(), "repeats": repeats, "nQ": n_q}
    with make_server(page, 0) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = started.new_page()
        tab.goto(address(server))
        found = tab.evaluate(MEASURE, request)
        table.add("browser", f"Chromium {started.version}, {found['threads']} thread(s)")
        started.close()
        server.shutdown()
    expected = tokenizer.encode(wav, n_q=n_q)
    codes = np.array(found["codes"]).reshape(n_q, -1)
    sound = tokenizer.decode(torch.from_numpy(codes)[None], length=length)[0].numpy()
    difference = np.abs(sound - np.array(found["sound"], dtype=np.float32)).max()
    names = list(json.loads((Path(page) / "page.json").read_text())["files"])
    contents = [(Path(page) / name).read_bytes() for name in names]
    size = sum(map(len, contents)) / 1e6
    compressed = sum(len(gzip.compress(content)) for content in contents) / 1e6
    table.add("served", f"{size:.1f} MB, {compressed:.1f} MB with gzip")
    table.add("load", f"{found['load']:.2f} s")
    table.add("encode", f"{min(found['encode']):.2f} s")
    table.add("decode, with the inverse STFT", f"{min(found['decode']):.2f} s")
    table.add("codes that differ from Python's", f"{int((codes != expected[0].numpy()).sum())} of {codes.size}")
    table.add("largest difference of the sound", f"{difference:.1e}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
