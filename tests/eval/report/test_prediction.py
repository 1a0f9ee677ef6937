"""Codes under a codec's own model: the bits are those that its coder takes, and a report shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eval.codecs.base import CodecSpec, OwnModel
from eval.codecs.ours import MimoCodec
from eval.metrics.base import MetricSpec
from eval.report.files import write_report_files
from eval.report.prediction import predicted_bits
from eval.report.summary import results_of
from eval.report.tables import prediction_table
from eval.run.runner import Run, Settings, evaluate
from eval.testlists import read_test_list
from mimotok.io.codes.entropy import encode_blocks
from mimotok.weights import CODE_MODEL_NAME, sha256_of_codes, weights_path
from tests.helpers.code_models import make_code_model
from tests.helpers.evaluation_speech import no_progress
from tests.helpers.models import STREAMABLE, make_tokenizer

SIZES = (32, 8, 16)
MODEL = make_code_model(SIZES, weights=3.0)


def random_codes(frames: int, sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    rng = np.random.default_rng(frames)
    return np.stack([rng.integers(0, size, frames) for size in sizes])


def test_bits_are_those_of_the_coder() -> None:
    pytest.importorskip("constriction", reason="needs pip install 'mimotok[entropy]'")
    codes = random_codes(200)
    bits = predicted_bits(OwnModel(MODEL, 100), [codes], SIZES)
    taken = 8 * sum(map(len, encode_blocks(MODEL, SIZES, codes, 100)))
    # each of the two blocks ends at a byte, and leaves out what the coder knows without it
    assert abs(taken - bits.sum()) < 2 * 32


def test_each_block_is_predicted_by_itself() -> None:
    own = OwnModel(MODEL, 10)
    clips = [random_codes(frames) for frames in (10, 25, 7, 20)]
    blocks = [clip[:, start : start + 10] for clip in clips for start in range(0, clip.shape[1], 10)]
    alone = sum(predicted_bits(own, [block], SIZES) for block in blocks)
    np.testing.assert_allclose(predicted_bits(own, clips, SIZES), alone)


def test_books_beyond_the_models_take_what_their_numbers_take() -> None:
    codes = random_codes(30, (*SIZES, 64))
    bits = predicted_bits(OwnModel(MODEL, 10), [codes], (*SIZES, 64))
    assert bits[3] == 30 * 6
    np.testing.assert_allclose(bits[:3], predicted_bits(OwnModel(MODEL, 10), [codes[:3]], SIZES))


def folder_with_model(folder: Path, *, fits: bool = True) -> str:
    tokenizer = make_tokenizer(STREAMABLE)
    tokenizer.save_pretrained(folder)
    digest = sha256_of_codes(weights_path(folder)) if fits else "0" * 64
    make_code_model(tokenizer.codebook_sizes, codes_sha256=digest).save(folder / CODE_MODEL_NAME)
    return str(folder)


def evaluated(corpus: Path, source: str, out: Path) -> Run:
    clips = tuple(read_test_list(corpus))
    settings = Settings(clips, (CodecSpec(source, 2), CodecSpec("copy")), (MetricSpec("signal"),), out)
    return evaluate(settings, notify=lambda _: None, progress=no_progress)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_metric")
def test_a_report_has_bits_and_perplexities_of_codecs_with_a_model(corpus: Path, tmp_path: Path) -> None:
    source = folder_with_model(tmp_path / "model")
    done = evaluated(corpus, source, tmp_path / "out")
    results = results_of(done, "python -m eval")
    ours, copy = (codec["rates"] for codec in results["codecs"])
    codec = MimoCodec(CodecSpec(source, 2), source, "cpu")
    own = codec.own_model()
    assert own is not None
    assert own.frames == 25
    codes = [np.asarray(coding["codes"]) for coding in done.codecs[0].coding.values()]
    bits = predicted_bits(own, codes, codec.codebook_sizes)
    assert ours["model_bitrate"] == pytest.approx(bits.sum() / sum(done.seconds.values()))
    np.testing.assert_allclose(ours["model_perplexity"], 2 ** (bits / sum(clip.shape[1] for clip in codes)))
    assert ours["model_digest"] == own.model.digest
    assert "model_bitrate" not in copy
    table = prediction_table(results)
    assert table is not None
    assert table.header == ["codec", "nominal", "code model", "book 1", "book 2"]
    (tmp_path / "report").mkdir()
    write_report_files(tmp_path / "report", results)
    assert "| nominal | code model |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("fake_metric")
def test_a_model_of_other_weights_is_told_and_left_out(corpus: Path, tmp_path: Path) -> None:
    done = evaluated(corpus, folder_with_model(tmp_path / "model", fits=False), tmp_path / "out")
    (note,) = done.notes
    assert "codes not predicted" in note
    assert "made for the codes of other weights" in note
    results = results_of(done, "python -m eval")
    assert prediction_table(results) is None


def test_a_model_without_weights_in_a_folder_has_none(tmp_path: Path) -> None:
    make_tokenizer(STREAMABLE).save_pretrained(tmp_path)
    with torch.no_grad():
        assert MimoCodec(CodecSpec("bare"), str(tmp_path), "cpu").own_model() is None
