"""Exported wav files: equal names in all folders, the samples that were measured, and nothing of other runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval.codecs.base import CodecSpec
from eval.metrics.base import MetricSpec
from eval.report.wavs import check_export_folder, export_message, export_wavs
from eval.run.runner import Settings, evaluate
from eval.run.store import audio_path, load_wav
from eval.testlists import read_test_list
from mimotok.io.files import TEMPORARY
from tests.helpers.evaluation_speech import no_progress


@pytest.mark.usefixtures("fake_metric")
def test_originals_and_reconstructions_lie_in_folders_of_equal_names(fake, corpus: Path, tmp_path: Path) -> None:
    def picky(wav):
        if len(wav) == 42000:
            raise RuntimeError("not this one")
        return 0.5 * wav

    fake("half", lambda wav: 0.5 * wav)
    fake("picky/codec", picky)
    settings = Settings(
        tuple(read_test_list(corpus)),
        (CodecSpec("half"), CodecSpec("picky/codec")),
        (MetricSpec("signal"),),
        tmp_path / "out",
    )
    done = evaluate(settings, notify=lambda _: None, progress=no_progress)
    exported = export_wavs(done, tmp_path / "wavs")
    folders = [exported.originals, *exported.codecs.values()]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["a.wav.wav", "c.wav.wav"]] * 3
    assert (exported.recordings, exported.left_out) == (2, 1)
    assert "1 that some codec failed on" in export_message(exported)
    for label, folder in {"original": exported.originals, **exported.codecs}.items():
        wav, rate = soundfile.read(folder / "a.wav.wav", dtype="float32")
        assert rate == 24000
        assert np.array_equal(wav, load_wav(audio_path(tmp_path / "out", label, "a.wav")))
    # the same command again is no other run, nor is what a killed one left behind
    (tmp_path / "wavs" / "half" / TEMPORARY.format("killed")).touch()
    assert export_wavs(done, tmp_path / "wavs") == exported
    (tmp_path / "wavs" / "half" / "old.wav").touch()
    with pytest.raises(ValueError, match=r"such as old\.wav; give another --export-wavs"):
        export_wavs(done, tmp_path / "wavs")
    done.codecs[0].coding.clear()
    with pytest.raises(ValueError, match="nothing to export"):
        export_wavs(done, tmp_path / "none")
    with pytest.raises(ValueError, match="is a file"):
        check_export_folder(corpus / "a.wav")
