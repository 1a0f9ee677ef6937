"""The command line: round trips, batches, and every user error in one line with exit code 2 and nothing written."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from mimotok import Tokenizer, load_audio
from mimotok.cli.common import file_progress
from mimotok.cli.main import app
from mimotok.io.codes_file import load_codes, save_codes
from mimotok.streaming import blocks
from mimotok.transcode import decode_file, encode_file
from tests.helpers.codes_files import arrays_of_format_1
from tests.helpers.paths import PARITY, ROOT
from tests.helpers.warm_python import warm_python

pytestmark = pytest.mark.slow

MODEL = PARITY / "a"
OTHER_RATE = MODEL.parent / "c"


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def mimotok(capsys: pytest.CaptureFixture[str]):
    """Runs a command line in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as exited:
            app([str(argument) for argument in arguments], prog_name="mimotok")
        return Result(int(exited.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shapes with other weights."""
    folder = tmp_path_factory.mktemp("models") / "retrained"
    other = Tokenizer.from_pretrained(MODEL)
    with torch.no_grad():
        other.decoder.layer_norm.weight.mul_(1.5)
    other.save_pretrained(folder)
    return folder


def sound(path: Path, num_samples: int = 7000, rate: int = 24000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(num_samples).uniform(-0.5, 0.5, (num_samples, channels))
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture(scope="module")
def encoded(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with in.wav and its in.npz; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("encoded")
    encode_file(tokenizer, sound(folder / "in.wav"), folder / "in.npz")
    return folder


@pytest.fixture
def folder(encoded: Path, tmp_path: Path) -> Path:
    shutil.copytree(encoded, tmp_path / "w")
    return tmp_path / "w"


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def assert_refused(result: Result, message: str) -> None:
    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert result.err.startswith("mimotok: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("rate", "channels", "num_samples", "n_q"),
    [(24000, 1, 1, 6), (8000, 2, 5000, 1), (44100, 3, 20_001, 4), (192_000, 1, 3, 2), (48000, 1, 48_000, 6)],
)
def test_round_trip(
    mimotok, tokenizer: Tokenizer, tmp_path: Path, rate: int, channels: int, num_samples: int, n_q: int
) -> None:
    source = sound(tmp_path / "in.wav", num_samples, rate, channels)
    assert mimotok("encode", source, tmp_path / "c.npz", "--model", MODEL, "--n-q", n_q) == (0, "", "")
    held, wav = load_codes(tmp_path / "c.npz"), load_audio(source, 24000)
    assert held.num_samples == wav.shape[1]
    assert held.codes.shape == (n_q, tokenizer.num_frames(wav.shape[1]))
    assert np.array_equal(held.codes, tokenizer.encode(wav, n_q=n_q)[0])
    assert held.bitrate == pytest.approx(tokenizer.bitrate(n_q))

    assert mimotok("decode", tmp_path / "c.npz", tmp_path / "out.wav", "--model", MODEL) == (0, "", "")
    expected = tokenizer.decode(tokenizer.encode(wav, n_q=n_q), length=wav.shape[1])
    decoded = load_audio(tmp_path / "out.wav", 24000)
    assert soundfile.info(tmp_path / "out.wav").samplerate == 24000
    assert decoded.shape == wav.shape
    assert (decoded - expected.clamp(-1, 1)).abs().max() < 2e-4


def test_a_mimo_file_holds_what_the_npz_does(mimotok, folder: Path) -> None:
    assert mimotok("encode", folder / "in.wav", folder / "c.mimo", "--model", MODEL) == (0, "", "")
    held = load_codes(folder / "c.mimo")
    other = load_codes(folder / "in.npz")
    assert np.array_equal(held.codes, other.codes)
    assert held.num_samples == other.num_samples
    assert (folder / "c.mimo").stat().st_size < (folder / "in.npz").stat().st_size
    printed = mimotok("info", folder / "c.mimo").out
    for part in ("mimo, version 2", other.model_sha256[:8], "7000 samples at 24000 Hz", "8 at 25 Hz", "700 bit/s"):
        assert part in printed
    assert mimotok("decode", folder / "in.npz", folder / "a.wav", "--model", MODEL) == (0, "", "")
    assert mimotok("decode", folder / "c.mimo", folder / "b.wav", "--model", MODEL) == (0, "", "")
    assert (folder / "a.wav").read_bytes() == (folder / "b.wav").read_bytes()


def test_a_cut_mimo_file_is_decoded_up_to_its_last_whole_frame(mimotok, folder: Path) -> None:
    save_codes(folder / "c.mimo", load_codes(folder / "in.npz"))
    (folder / "c.mimo").write_bytes((folder / "c.mimo").read_bytes()[:-8])
    assert "6 at 25 Hz; 2 more are missing: the file was cut short" in mimotok("info", folder / "c.mimo").out
    result = mimotok("decode", folder / "c.mimo", folder / "o.wav", "--model", MODEL)
    message = f"mimotok: {folder / 'c.mimo'}: cut short; 6 of its 8 frames were decoded\n"
    assert result == (0, "", message)
    assert load_audio(folder / "o.wav", 24000).shape == (1, 6 * 960)


def test_the_default_number_of_codebooks_is_the_models(encoded: Path, tokenizer: Tokenizer) -> None:
    held = load_codes(encoded / "in.npz")
    assert held.n_q == tokenizer.n_q
    assert (held.model_name, held.model_sha256) == ("a", tokenizer.weights_sha256)


def test_bfloat16(mimotok, folder: Path) -> None:
    result = mimotok("encode", folder / "in.wav", folder / "b.npz", "--model", MODEL, "--dtype", "bfloat16")
    assert result == (0, "", "")
    assert load_codes(folder / "b.npz").codes.shape == load_codes(folder / "in.npz").codes.shape


def test_other_sound_formats_by_name(mimotok, folder: Path) -> None:
    assert mimotok("decode", folder / "in.npz", folder / "out.flac", "--model", MODEL).code == 0
    assert soundfile.info(folder / "out.flac").format == "FLAC"
    assert load_audio(folder / "out.flac", 24000).shape == (1, 7000)


def test_folders_keep_their_layout(mimotok, tmp_path: Path) -> None:
    for name in ("a.wav", "deep/er/b.flac", "deep/c.ogg", "deep/D.WAV"):
        sound(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    single = sound(tmp_path / "single.wav")
    codes, sounds = tmp_path / "codes", tmp_path / "sounds"
    encoded = mimotok("encode", tmp_path / "in", single, "--out-dir", codes, "--model", MODEL)
    assert encoded == (0, "", f"mimotok: {tmp_path / 'in'}: not read: 1 .txt\n")
    names = {"a", "deep/er/b", "deep/c", "deep/D", "single"}
    assert {str(p.relative_to(codes)) for p in codes.rglob("*.*")} == {f"{name}.npz" for name in names}
    assert mimotok("decode", codes, "--out-dir", sounds, "--model", MODEL) == (0, "", "")
    assert {str(p.relative_to(sounds)) for p in sounds.rglob("*.*")} == {f"{name}.wav" for name in names}


def test_one_bad_file_does_not_stop_the_others(mimotok, tmp_path: Path) -> None:
    sound(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "b.wav").write_text("no sound")
    sound(tmp_path / "in" / "c.wav")
    missing = tmp_path / "missing.wav"
    result = mimotok("encode", tmp_path / "in", missing, "--out-dir", tmp_path / "out", "--model", MODEL)
    assert result.code == 2
    assert [line.split(": ")[1] for line in result.err.splitlines()] == [str(tmp_path / "in/b.wav"), str(missing)]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.npz", "c.npz"}


def test_a_batch_of_bad_files_leaves_no_folder(mimotok, tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_text("no sound")
    result = mimotok("encode", tmp_path / "b.wav", "--out-dir", tmp_path / "out" / "deep", "--model", MODEL)
    assert_refused(result, "not audio")
    assert not (tmp_path / "out").exists()


def test_existing_outputs_are_refused_before_any_work(mimotok, folder: Path) -> None:
    sound(folder / "again" / "a.wav")
    sound(folder / "again" / "in.wav")
    before = contents(folder)
    for arguments in (
        ["encode", folder / "in.wav", folder / "in.npz"],
        ["encode", folder / "again", "--out-dir", folder],
        ["decode", folder / "in.npz", folder / "in.wav"],
    ):
        assert_refused(mimotok(*arguments, "--model", "no/such/model/is/loaded"), "exists already")
    assert contents(folder) == before
    assert mimotok("encode", folder / "again", "--out-dir", folder, "--overwrite", "--model", MODEL).code == 0
    assert mimotok("decode", folder / "in.npz", folder / "in.wav", "--overwrite", "--model", MODEL).code == 0


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_existing_outputs_are_skipped_when_asked(mimotok, folder: Path, command: str) -> None:
    sources = folder / "sources"
    suffix = ".wav" if command == "encode" else ".npz"
    target_suffix = ".npz" if command == "encode" else ".wav"
    sources.mkdir()
    for name in ("a", "b"):
        shutil.copy(folder / f"in{suffix}", sources / f"{name}{suffix}")
    out = folder / "out"
    out.mkdir()
    (out / f"a{target_suffix}").write_text("kept")
    arguments = [command, sources, "--out-dir", out, "--skip-existing", "--model", MODEL]
    assert mimotok(*arguments) == (0, "", "mimotok: 1 of 2 outputs exist already and are kept\n")
    assert (out / f"a{target_suffix}").read_text() == "kept"
    assert (out / f"b{target_suffix}").stat().st_size > 100
    # nothing is left to do, and no model is loaded for it
    arguments[-1] = "no/such/model/is/loaded"
    assert mimotok(*arguments) == (0, "", "mimotok: 2 of 2 outputs exist already and are kept\n")


def test_another_models_codes_are_refused_unless_forced(
    mimotok, folder: Path, tokenizer: Tokenizer, retrained: Path
) -> None:
    arguments = ["decode", folder / "in.npz", folder / "out.wav", "--model", retrained]
    result = mimotok(*arguments)
    assert_refused(result, "made by model 'a'")
    assert "'retrained'" in result.err
    assert tokenizer.weights_sha256[:12] in result.err
    assert not (folder / "out.wav").exists()
    assert mimotok(*arguments, "--force") == (0, "", "")
    assert load_audio(folder / "out.wav", 24000).shape == (1, 7000)


def test_codes_that_cannot_fit_are_refused_even_if_forced(mimotok, folder: Path) -> None:
    result = mimotok("decode", folder / "in.npz", folder / "out.wav", "--model", OTHER_RATE, "--force")
    assert_refused(result, "frame_rate 25 Hz does not fit model 'c' with 50 Hz")
    arrays = arrays_of_format_1(folder / "in.npz")
    np.savez(folder / "wide.npz", **{**arrays, "codebook_sizes": arrays["codebook_sizes"] * 2})
    result = mimotok("decode", folder / "wide.npz", folder / "out.wav", "--model", MODEL, "--force")
    assert_refused(result, "codebook sizes [128, 128, 32, 32, 32, 32] do not fit model 'a'")
    assert not (folder / "out.wav").exists()


def bad_inputs(folder: Path) -> None:
    """Fills a folder with what must be refused."""
    whole = (folder / "in.wav").read_bytes()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound at all\n" * 99)
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "nan.wav", np.full(5000, np.nan), 24000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0), 24000)
    codes = (folder / "in.npz").read_bytes()
    (folder / "cut.npz").write_bytes(codes[: len(codes) // 2])
    (folder / "text.npz").write_text("no codes at all\n" * 99)
    arrays = arrays_of_format_1(folder / "in.npz")
    np.savez(folder / "float.npz", **{**arrays, "codes": arrays["codes"].astype(np.float32)})
    np.savez(folder / "flat.npz", **{**arrays, "codes": arrays["codes"][0]})
    np.savez(folder / "range.npz", **{**arrays, "codes": arrays["codes"] + np.uint16(60)})
    save_codes(folder / "whole.mimo", load_codes(folder / "in.npz"))
    whole = (folder / "whole.mimo").read_bytes()
    (folder / "head.mimo").write_bytes(whole[:15])
    (folder / "damaged.mimo").write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    (folder / "no_weights").mkdir()
    shutil.copy(MODEL / "config.json", folder / "no_weights")


USER_ERRORS = [
    ("encode missing.wav o.npz", "No such file"),
    ("encode empty.wav o.npz", "empty"),
    ("encode text.wav o.npz", "not audio"),
    ("encode cut.wav o.npz", "truncated"),
    ("encode nan.wav o.npz", "NaN"),
    ("encode none.wav o.npz", "0 samples"),
    ("encode in.wav", "one input and one output"),
    ("encode in.wav in.wav o.npz", "one input and one output"),
    ("encode . o.npz", "--out-dir"),
    ("encode no_weights --out-dir out", "no files ending in"),
    ("encode in.wav in.wav --out-dir out", "would both become"),
    ("encode in.wav o.wav", "expected .npz"),
    ("encode in.wav in.wav", "expected .npz"),
    ("encode in.wav nowhere/o.npz", "does not exist"),
    ("encode in.wav in.wav/o.npz", "not a folder"),
    ("encode in.wav --out-dir in.npz", "not a folder"),
    ("encode in.wav o.npz --n-q 0", "n_q=0"),
    ("encode in.wav o.npz --n-q 7", "6 codebooks"),
    ("encode in.wav o.npz --device banana", "device=banana"),
    ("encode in.wav o.npz --device cuda:99", "device=cuda:99"),
    ("encode in.wav o.npz --dtype int8", "float32 or bfloat16"),
    ("encode in.wav o.npz --model nowhere", "nowhere"),
    ("encode in.wav o.npz --model in.npz", "in.npz"),
    ("encode in.wav o.npz --model no_weights", "model.safetensors"),
    ("decode missing.npz o.wav", "No such file"),
    ("decode in.wav o.wav", "not a codes file"),
    ("decode cut.npz o.wav", "truncated"),
    ("decode text.npz o.wav", "not a codes file"),
    ("decode float.npz o.wav", "expected uint16"),
    ("decode flat.npz o.wav", "expected uint16 [n_q, F]"),
    ("decode range.npz o.wav", "has 64 entries"),
    ("decode head.mimo o.wav", "truncated within its header"),
    ("decode damaged.mimo o.wav", "the checksum of frames 0 to 7 does not match"),
    ("info damaged.mimo", "the checksum of frames 0 to 7 does not match"),
    ("encode in.wav in.mimo.wav", "expected .npz or .mimo"),
    ("encode in.wav o.npz --skip-existing", "--skip-existing is for --out-dir"),
    ("encode in.wav --out-dir out --skip-existing --overwrite", "not for --overwrite"),
    ("decode in.npz o.xyz", "expected .wav or"),
    ("decode in.npz nowhere/o.wav", "does not exist"),
    ("decode in.npz o.wav --device banana", "device=banana"),
    ("info missing.npz", "missing.npz"),
    ("info in.wav", "not a codes file"),
    ("info no_weights", "model.safetensors"),
]


@pytest.mark.parametrize(("command", "message"), USER_ERRORS)
def test_user_errors(mimotok, folder: Path, monkeypatch: pytest.MonkeyPatch, command, message) -> None:
    bad_inputs(folder)
    monkeypatch.chdir(folder)
    before = contents(folder)
    model = [] if "--model" in command or command.startswith("info") else ["--model", MODEL]
    assert_refused(mimotok(*command.split(), *model), message)
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_every_help_shows_an_example(mimotok, command: str) -> None:
    result = mimotok(command, "--help")
    assert result.code == 0
    assert f"Example: mimotok {command} " in result.out


def test_info_gives_the_facts_of_tokens_as_json(mimotok, encoded: Path, tokenizer: Tokenizer) -> None:
    sizes = list(tokenizer.codebook_sizes[: tokenizer.n_q])
    for source in (MODEL, encoded / "in.npz"):
        facts = json.loads(mimotok("info", source, "--json").out)
        assert facts["codebook_sizes"] == sizes
        assert facts["vocabulary"] == sum(sizes)
        assert facts["tokens_per_second"] == len(sizes) * tokenizer.frame_rate
        assert facts["bits_per_second"] == pytest.approx(tokenizer.bitrate())
        assert facts["frame_size"] == tokenizer.frame_size
        assert facts["weights_sha256"] == tokenizer.weights_sha256
    assert facts["num_frames"] == tokenizer.num_frames(facts["num_samples"])


def test_info_on_codes_and_models(mimotok, encoded: Path, tokenizer: Tokenizer) -> None:
    printed = mimotok("info", encoded / "in.npz").out
    size = (encoded / "in.npz").stat().st_size
    for part in (tokenizer.weights_sha256, "7000 samples at 24000 Hz", "0.292 s", "700 bit/s", f"{size} bytes"):
        assert part in printed
    printed = mimotok("info", MODEL).out
    for part in (tokenizer.weights_sha256, "24000 Hz", "25 Hz", "6 (2 x 64 + 4 x 16 entries)", "700 bit/s"):
        assert part in printed


def test_a_broken_encoder_leaves_nothing(folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        yield torch.zeros(1, 6, 5, dtype=torch.int64)
        raise RuntimeError("a bug")

    before = contents(folder)
    monkeypatch.setattr(blocks, "encode_blocks", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        encode_file(tokenizer, folder / "in.wav", folder / "o.npz")
    monkeypatch.setattr(blocks, "decode_blocks", broken)
    with pytest.raises((RuntimeError, ValueError)):
        decode_file(tokenizer, folder / "in.npz", folder / "o.wav")
    assert contents(folder) == before


def test_progress_counts_the_seconds_of_sound(folder: Path, tokenizer: Tokenizer) -> None:
    seen = []

    def progress(done, total):
        seen.append((done, total))

    encode_file(tokenizer, folder / "in.wav", folder / "o.npz", progress=progress)
    assert seen[-1] == pytest.approx((7000 / 24000, 7000 / 24000))
    seen.clear()
    decode_file(tokenizer, folder / "in.npz", folder / "o.wav", progress=progress)
    assert seen[-1] == pytest.approx((7000 / 24000, 7000 / 24000))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_the_file_is_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with file_progress(2) as report:
        report(0, Path("a[b].wav"), 0.0, None)
        report(0, Path("a[b].wav"), 3599.0, 7200.0)
        report(1, Path("next.wav"), 61.0, 122.0)
    shown = screen.getvalue()
    assert "2/2 next.wav: 0:01:01 of sound" in shown
    assert re.search(r"\d:\d\d:\d\d|-:--:--", shown.split("of sound")[-1])


def python(
    code: str, *arguments: object, interpreter: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [interpreter, "-c", code, *map(str, arguments)]
    environment = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


INTERRUPTED = """
import signal, sys
from mimotok.cli.main import main
from mimotok.streaming import blocks
# the background jobs of a shell and of nohup ignore these from birth
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
decode_blocks = blocks.decode_blocks
def interrupted(*arguments, **options):
    for block in decode_blocks(*arguments, **options):
        yield block
        signal.raise_signal(signal.Signals[SIGNAL])
blocks.decode_blocks = interrupted
main()
"""


@pytest.mark.parametrize(("signal", "code", "lines"), [("SIGINT", 130, 1), ("SIGTERM", 143, 0), ("SIGHUP", 129, 0)])
def test_interrupted(folder: Path, signal: str, code: int, lines: int) -> None:
    before = contents(folder)
    arguments = ["decode", folder / "in.npz", folder / "o.wav", "--model", MODEL]
    done = python(INTERRUPTED.replace("SIGNAL", repr(signal)), *arguments, interpreter=warm_python())
    assert done.returncode == code
    assert done.stderr.count("\n") == lines
    assert contents(folder) == before


def test_help_and_codes_files_do_not_wait_for_torch(encoded: Path) -> None:
    code = """
import sys
from mimotok.cli.main import app
from mimotok.cli.common import file_progress
for arguments in (["--help"], ["encode", "--help"], ["--version"], ["info", sys.argv[1]]):
    app(arguments, standalone_mode=False)
assert not {"torch", "rich", "soundfile", "huggingface_hub"} & set(sys.modules)
"""
    done = python(code, encoded / "in.npz")
    assert done.returncode == 0, done.stderr
    assert "mimotok 0" in done.stdout


def test_an_unknown_hub_id_is_reported_at_once_without_a_network(folder: Path) -> None:
    code = "from mimotok.cli.main import main; main()"
    arguments = ["encode", folder / "in.wav", folder / "o.npz", "--model", "nobody/no-such-model"]
    done = python(code, *arguments, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(folder / "hub"))
    assert_refused(Result(done.returncode, done.stdout, done.stderr), "nobody/no-such-model")
    assert not (folder / "o.npz").exists()


@pytest.mark.parametrize(
    "option", [["--n-q", "2"], ["--format", "shar"], ["--workers", "2"], ["--root", "."], ["--ray", "local"]]
)
def test_what_a_check_of_tokens_would_pass_over_is_refused(mimotok, tmp_path: Path, option: list[str]) -> None:
    done = mimotok("tokenize", "--verify", tmp_path, *option)
    assert done.code == 2
    assert f"{option[0]}: is of encoding" in done.err
