"""A harmless marker in every file that the package can be asked to load: none of them is ever run.

A pickle runs what it likes when it is loaded. Here it makes a file; in whatever place it lies, that file must not be
there afterwards.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mimotok import Tokenizer, load_audio
from mimotok.corpus.formats import read_shard
from mimotok.corpus.inputs import read_input
from mimotok.info import read_info
from mimotok.io.codes_file import load_codes
from tests.helpers.paths import PARITY
from tests.helpers.training_runs import configure, make_speech

pytestmark = pytest.mark.slow

MODEL = PARITY / "a"


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


def torch_bytes(value: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def numpy_bytes(save: Callable[..., None], value: Any) -> bytes:
    array = np.empty(1, object)
    array[0] = value
    file = io.BytesIO()
    save(file, array) if save is np.save else save(file, codes=array)
    return file.getvalue()


def payloads(marker: Path) -> dict[str, bytes]:
    """Files that make `marker` where they are loaded without care."""
    evil = Marker(marker)
    return {
        "pickle": pickle.dumps(evil),
        "torch": torch_bytes({"state_dict": {"a": torch.zeros(1)}, "mimotok": {}, "hyper_parameters": evil}),
        "old torch": torch_bytes({"state_dict": evil}, zipped=False),
        "npz": numpy_bytes(np.savez, evil),
        "npy": numpy_bytes(np.save, evil),
    }


PAYLOADS = list(payloads(Path("marker")))


class Place(NamedTuple):
    """A folder to put things in, and what loads the payload there."""

    folder: Path
    data: bytes

    def put(self, name: str, data: bytes | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data if data is None else data)
        return path


def tar_of(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def model_folder(place: Place, *names: str, **config: Any) -> str:
    """A model's folder in which files of these names hold the payload."""
    folder = place.folder / "model"
    shutil.copytree(MODEL, folder)
    for name in ("model.safetensors", "expected.npz"):
        (folder / name).unlink(missing_ok=True)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    for name in names:
        place.put(f"model/{name}")
    return str(folder)


ROW = json.dumps({"key": "a", "num_samples": 960, "audio": {}, "metadata": {}}).encode()
CUT = gzip.compress(
    json.dumps({"id": "a", "custom": {"mimotok": {"num_samples": 1, "audio": {}, "metadata": {}}}}).encode()
)


def shar_shard(place: Place) -> Any:
    place.put("cuts.0.jsonl.gz", CUT)
    place.put("codes.0.tar", tar_of(("a.npy", place.data), ("a.json", b"{}")))
    return read_shard(place.folder, ["cuts.0.jsonl.gz", "codes.0.tar"], "shar")


def webdataset_shard(place: Place) -> Any:
    place.put("tokens.0.tar", tar_of(("a.npz", place.data), ("a.json", ROW)))
    return read_shard(place.folder, ["tokens.0.tar"], "webdataset")


def whole_shard(kind: str) -> Callable[[Place], Any]:
    return lambda place: read_shard(place.folder, [place.put(f"tokens.0.{kind}").name], kind)


def sound_in_a_tar(place: Place) -> Any:
    from mimotok.corpus.clips import read_clip

    place.put("x.tar", tar_of(("a.wav", place.data), ("a.json", place.data), ("a.txt", place.data)))
    (clip,) = read_input(str(place.folder / "x.tar")).clips
    return list(read_clip(clip, 24000))


def onnx_export(place: Place) -> Any:
    pytest.importorskip("onnxruntime")
    from mimotok.export.run_onnx import OnnxTokenizer

    facts = {"sample_rate": 24000, "frame_size": 960, "codebook_sizes": [4], "n_fft": 960, "hop_length": 240}
    place.put("mimotok.json", json.dumps({**facts, "max_encoder_frames": 9, "max_decoder_frames": 9}).encode())
    for name in ("encoder.onnx", "decoder.onnx"):
        place.put(name)
    try:
        return OnnxTokenizer(place.folder)
    except Exception as error:  # onnxruntime has errors of its own
        raise ValueError(error) from error


CORE: dict[str, Callable[[Place], Any]] = {
    "sound": lambda place: load_audio(place.put("a.wav"), 24000),
    "codes": lambda place: load_codes(place.put("a.npz")),
    "info": lambda place: read_info(place.put("a.npz")),
    "weights": lambda place: Tokenizer.from_pretrained(model_folder(place, "model.safetensors")),
    "pickled weights": lambda place: Tokenizer.from_pretrained(
        model_folder(place, "pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl")
    ),
    "config": lambda place: Tokenizer.from_pretrained(model_folder(place, "config.json", "model.safetensors")),
    "manifest": lambda place: read_input(str(place.put("m.jsonl"))),
    "compressed manifest": lambda place: read_input(str(place.put("m.jsonl.gz"))),
    "manifest that is one": lambda place: read_input(str(place.put("m.jsonl.gz", gzip.compress(place.data)))),
    "tar": lambda place: sound_in_a_tar(place),
    "parquet": whole_shard("parquet"),
    "webdataset": whole_shard("webdataset"),
    "shard's codes, webdataset": webdataset_shard,
    "shard's codes, shar": shar_shard,
    "onnx": onnx_export,
}


def stage(name: str) -> Any:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    if name == "joint":
        from train.stages.joint import JointStage as Stage
    elif name == "adversarial":
        from train.stages.adversarial import AdversarialStage as Stage  # type: ignore[assignment]
    elif name == "lm":
        from examples.audio_lm.model import SpeechLM as Stage  # type: ignore[assignment]
    else:
        from examples.asr_adapter.model import Reader as Stage  # type: ignore[assignment]
    return Stage


def checkpoint_io(place: Place) -> Any:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from train.run.checkpoints import AtomicCheckpointIO

    return AtomicCheckpointIO().load_checkpoint(place.put("last.ckpt"), weights_only=False)


def remote_checkpoint(place: Place) -> Any:
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from train.run.checkpoints import AtomicCheckpointIO

    fsspec.filesystem("memory").pipe("/checkpoints/last.ckpt", place.data)
    return AtomicCheckpointIO().load_checkpoint("memory://checkpoints/last.ckpt")


def exported(place: Place) -> Any:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from train.tools.export import export

    return export(place.put("last.ckpt"), place.folder / "out")


def text_decoder(place: Place) -> Any:
    pytest.importorskip("transformers")
    from train.stages.text_decoder import load_text_decoder

    place.put("config.json", json.dumps({"d_model": 8, "tokenizer": "bytes"}).encode())
    place.put("model.safetensors")
    return load_text_decoder(place.folder)


def cached_clips(place: Place) -> Any:
    from train.data.cache import read_prepared

    place.put("cuts.jsonl.gz")
    return read_prepared(place.folder)


def skipped_clips(place: Place) -> Any:
    from train.data.cache import read_prepared

    place.put("cuts.jsonl.gz", gzip.compress(b""))
    place.put("skipped.json")
    return read_prepared(place.folder)


def cached_sound(place: Place) -> Any:
    from mimotok.io.clips.clip import Clip, Pcm
    from train.data.manifest import BadClipError, read

    place.put("shard.wav")
    try:
        return read(Clip("a", "", duration=1e3, pcm=Pcm(str(place.folder / "shard.wav"), 24000, 0, 24_000_000)))
    except BadClipError as error:
        raise ValueError(error) from error


def example_features(place: Place) -> Any:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from safetensors import SafetensorError

    from examples.corpus import Corpus, load_items

    row = {"audio": "a.wav", "duration": 1.0, "text": "a", "language": "en", "split": "dev"}
    manifest = place.put("m.jsonl", json.dumps(row).encode())
    place.put(f"codes-dev-{'0' * 12}.safetensors")
    tokenizer: Any = mock.Mock(weights_sha256="0" * 64)
    try:
        return load_items(Corpus(str(manifest), cache=str(place.folder)), "dev", tokenizer, "codes", lambda *_: None)  # type: ignore[arg-type]
    except SafetensorError as error:
        raise ValueError(error) from error


def train_manifest(place: Place) -> Any:
    from train.data.manifest import read_manifest

    return read_manifest(str(place.put("m.jsonl")))


TRAIN: dict[str, Callable[[Place], Any]] = {
    "checkpoint of a run": checkpoint_io,
    "checkpoint of an address": remote_checkpoint,
    "exported checkpoint": exported,
    **{
        f"{name} stage": lambda place, name=name: stage(name).load_from_checkpoint(place.put("x.ckpt"))  # type: ignore[misc]
        for name in ("joint", "adversarial", "lm", "adapter")
    },
    "text decoder": text_decoder,
    "cache's index": cached_clips,
    "cache's skipped clips": skipped_clips,
    "cached sound": cached_sound,
    "examples' features": example_features,
    "training manifest": train_manifest,
}


def speaker_model(place: Place) -> Any:
    from eval.metrics.wavlm_ecapa import load_wavlm_ecapa

    return load_wavlm_ecapa(place.put("wavlm_large_finetune.pth"))


def results(place: Place) -> Any:
    from eval.report.schema import load_results

    return load_results(place.put("results.json"))


def answers(place: Place) -> Any:
    from eval.run.cache import Cache

    Cache(place.put("cache.jsonl"))
    raise ValueError("lines that are not understood are left out")


def test_list(place: Place) -> Any:
    from eval.testlists import read_test_list

    return read_test_list(place.put("m.jsonl"))


test_list.__test__ = False  # type: ignore[attr-defined]

EVAL: dict[str, Callable[[Place], Any]] = {
    "speaker model": speaker_model,
    "results": results,
    "kept answers": answers,
    "test list": test_list,
}

LOADERS = CORE | TRAIN | EVAL


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", LOADERS)
def test_nothing_in_a_file_is_run(name: str, payload: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    place = Place(tmp_path / "files", payloads(marker)[payload])
    place.folder.mkdir()
    with pytest.raises((ValueError, UnicodeDecodeError)):
        LOADERS[name](place)
    assert not marker.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_markers_would_run(payload: str, tmp_path: Path) -> None:
    """The payloads are no duds: what takes everything makes the marker."""
    marker = tmp_path / "marker"
    data = io.BytesIO(payloads(marker)[payload])
    if "torch" in payload:
        torch.load(data, weights_only=False)
    elif payload == "pickle":
        pickle.load(data)
    else:
        loaded = np.load(data, allow_pickle=True)
        _ = loaded["codes"] if payload == "npz" else loaded
    assert marker.exists()


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that makes a file when it is imported; yields that file's path."""
    marker = tmp_path / "marker"
    (tmp_path / "strangers_module.py").write_text(
        f"import os\nos.mknod({str(marker)!r})\nclass Model: pass\nmake = Model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    assert not marker.exists()


PLAIN = {"state_dict": {}, "epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.6.6", "loops": {}}


def named_checkpoint(path: Path, **hyper_parameters: Any) -> Path:
    torch.save({**PLAIN, "hyper_parameters": hyper_parameters}, path)
    return path


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("name", ["joint", "lm"])
def test_functions_and_classes_that_a_checkpoint_names_are_not_imported(name: str, tmp_path: Path) -> None:
    for names in ({"_instantiator": "strangers_module.make"}, {"_class_path": "strangers_module.Model"}):
        path = named_checkpoint(tmp_path / "x.ckpt", **names)
        with pytest.raises(ValueError, match="no checkpoint of a"):
            stage(name).load_from_checkpoint(path)


def run_train(*arguments: object) -> int:
    from train.__main__ import main

    with mock.patch("sys.argv", ["train", *map(str, arguments)]), pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_training_goes_on_from_no_checkpoint_that_runs_something(
    tmp_path: Path, stranger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    speech = make_speech(tmp_path)
    config = configure(tmp_path / "run", speech, "tiny.yaml")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched and unpickled"))
    evil = payloads(stranger)["torch"]
    (tmp_path / "evil.ckpt").write_bytes(evil)
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "folder.ckpt" / ".metadata").write_bytes(payloads(stranger)["pickle"])
    named = named_checkpoint(tmp_path / "named.ckpt", _class_path="strangers_module.Model")
    cases: list[tuple[object, str]] = [
        (tmp_path / "evil.ckpt", "holds more than tensors"),
        (tmp_path / "folder.ckpt", "sharded checkpoints are not read"),
        (named, "not one that a run of ours wrote"),
        ("ftp://127.0.0.1/evil.ckpt", "protocol not allowed"),
    ]
    for path, message in cases:
        assert run_train("fit", "--config", config, "--ckpt_path", path) == 2
        assert message in capsys.readouterr().err
    # the run's own last one
    (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(evil)
    assert run_train("fit", "--config", config) == 2
    assert "last.ckpt: not a readable checkpoint" in capsys.readouterr().err


def test_a_checkpoint_that_is_cut_anywhere_is_named_with_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from train.stages.plain import read_plain, require_plain

    whole = torch_bytes({**PLAIN, "state_dict": {"a": torch.arange(500.0), "b": torch.ones(3)}})
    for cut in (0, 1, 4, 30, *range(100, len(whole), 97), len(whole) - 1):
        (tmp_path / "last.ckpt").write_bytes(whole[:cut])
        for read in (read_plain, require_plain):
            with pytest.raises(ValueError, match=r"last\.ckpt: not a readable checkpoint: remove it, or") as caught:
                read(tmp_path / "last.ckpt")
            assert "\n" not in str(caught.value)


def huggingface_loaders() -> dict[str, Callable[[str], Any]]:
    from transformers import AutoFeatureExtractor, AutoModel

    import mimotok.hf  # noqa: F401
    from eval.codecs.base import CodecSpec
    from eval.codecs.transformers import HuggingFaceCodec
    from eval.metrics.speaker import _x_vector

    return {
        "ours": AutoModel.from_pretrained,
        "our extractor": AutoFeatureExtractor.from_pretrained,
        "codec": lambda folder: HuggingFaceCodec(CodecSpec(f"hf:{folder}"), folder, "cpu"),
        "x-vectors": lambda folder: _x_vector(folder, "cpu"),
    }


@pytest.mark.parametrize("payload", ["pickle", "torch", "old torch"])
def test_transformers_run_neither_pickles_nor_code_beside_a_model(payload: str, tmp_path: Path, stranger: Path) -> None:
    pytest.importorskip("transformers")
    place = Place(tmp_path, payloads(stranger)[payload])
    code = {"AutoModel": "strangers_module.Model", "AutoConfig": "strangers_module.Model"}
    for kind, config in (
        ("mimo_audio_tokenizer", {}),
        ("mimo_audio_tokenizer", {"auto_map": code}),
        ("strangers", {"auto_map": code}),
        ("wav2vec2", {}),
    ):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        folder = model_folder(place, "pytorch_model.bin", model_type=kind, **config)
        shutil.copy(tmp_path / "strangers_module.py", folder)
        place.put(
            "model/preprocessor_config.json", json.dumps({"feature_extractor_type": "strangers", **config}).encode()
        )
        for load in huggingface_loaders().values():
            with pytest.raises((ValueError, OSError, ImportError, RuntimeError, pickle.UnpicklingError, KeyError)):
                load(folder)
            assert not stranger.exists()


def test_what_our_runs_write_is_plain(tmp_path: Path) -> None:
    """A checkpoint with settings, numbers and tensors of all dtypes is read back as it was."""
    from train.stages.plain import read_plain, require_plain

    content = {
        "state_dict": {
            str(dtype): torch.ones(2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.int64)
        },
        "hyper_parameters": {"sizes": (1, 2), "rate": 1e-3, "name": None},
        "callbacks": {"x": {"best": torch.tensor(1.0), "path": "a"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95)}]}],
    }
    torch.save(content, tmp_path / "x.ckpt")
    require_plain(tmp_path / "x.ckpt")
    read = read_plain(tmp_path / "x.ckpt")
    assert read.keys() == content.keys()
    assert read["hyper_parameters"] == content["hyper_parameters"]
    save_file(read["state_dict"], tmp_path / "x.safetensors")
