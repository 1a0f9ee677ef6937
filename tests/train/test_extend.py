"""What docs/extend.md shows, run as it stands there: parts of one's own from training to export and use."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.paths import CONFIGS, ROOT
from tests.helpers.training_runs import make_speech, run_train

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from mimotok.model import quantizers
from mimotok.model.quantizer import ResidualQuantizer
from train.stages.joint import JointStage
from train.tools.export import export

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extend.md").read_text()
# a step is enough to see that a part is heard
SHORT = ("--trainer.max_steps", 2, "--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and speech."""
    folder = make_speech(tmp_path_factory.mktemp("extend"))
    for name, text in zip(("my_parts", "use", "my_quantizer"), blocks("python"), strict=True):
        (folder / f"{name}.py").write_text(text)
    for name, text in zip(("own", "own_adversarial"), blocks("yaml"), strict=True):
        (folder / f"{name}.yaml").write_text(text)
    (folder / "in.wav").write_bytes((folder / "0.wav").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _own_process(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As in a process of one's own: in that folder, with modules found there and nothing registered."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(quantizers, "_registered", {})
    yield
    for name in ("my_parts", "my_quantizer"):
        sys.modules.pop(name, None)


def fit(config: str, *words: object) -> int:
    data = ("--data.manifest", "manifest.jsonl")
    return run_train("fit", "--config", CONFIGS / config, *words, *data, *SHORT)


def logged(run: str) -> str:
    return Path("runs", run, "csv", "version_0", "metrics.csv").read_text().splitlines()[0]


def test_a_loss_a_discriminator_and_finite_scalars_from_training_to_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit("tiny.yaml", "--config", "own.yaml", "--name", "mine") == 0
    assert "train/power_loss" in logged("mine")
    assert "val/power_loss" in logged("mine")
    last = Path("runs/mine/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match="give losses to load_from_checkpoint"):
        JointStage.load_from_checkpoint(last)
    from my_parts import PowerLoss

    stage = JointStage.load_from_checkpoint(last, losses={"power": PowerLoss(2.0)})
    learned = stage.averaged_quantizer.module.state_dict()
    assert run_train("export", "--name", "mine", "--dtype", "float32") == 0
    model = Tokenizer.from_pretrained("runs/mine/model")
    # what is exported is the average of what was trained, and it was trained
    assert torch.equal(model.encoder.quantizer.project_in.weight, learned["project_in.weight"])
    assert not torch.equal(stage.quantizer.project_in.weight, learned["project_in.weight"])

    words = ("--config", "own_adversarial.yaml", "--name", "mine_2", "--model.init_args.model", "runs/mine/model")
    assert fit("tiny_adversarial.yaml", *words) == 0
    assert "train/feature_matching_loss" in logged("mine_2")
    assert run_train("export", "--name", "mine_2", "--dtype", "float32") == 0
    again = Tokenizer.from_pretrained("runs/mine_2/model")
    wav = 0.1 * torch.sin(torch.arange(24_000) * 0.05)[None]
    codes = model.encode(wav)
    assert torch.equal(again.encode(wav), codes), "codes of the joint stage stay valid"
    assert not torch.equal(again.decode(codes), model.decode(codes))

    pytest.importorskip("onnxruntime", reason="needs: pip install 'mimotok[onnx]'")
    pytest.importorskip("onnxscript", reason="needs: pip install 'mimotok[onnx]'")
    # tests/export compares graphs of finite scalars with the model: the exporter, which takes long, writes none here
    monkeypatch.setattr("mimotok.export.onnx._write", lambda *given: given[-1].write_bytes(b"a graph"))
    exec((Path("use.py")).read_text(), {"__name__": "page"})
    facts = json.loads(Path("onnx/mimotok.json").read_text())
    assert facts["weights_sha256"] == model.identity.sha256
    assert len(facts["codebook_sizes"]) == model.config.n_q
    assert Path("again.wav").stat().st_size > 1000


def test_sim_vq_makes_a_model_of_the_official_kind() -> None:
    own = ("--model.init_args.quantizer_training", "train.stages.quantizers.sim_vq.SimVqTraining")
    assert fit("tiny.yaml", "--name", "sim", *own) == 0
    export("runs/sim/checkpoints/last.ckpt", "sim", dtype="float32")
    assert "quantizer" not in json.loads(Path("sim/config.json").read_text())
    model = Tokenizer.from_pretrained("sim")
    assert isinstance(model.encoder.quantizer, ResidualQuantizer)
    assert model.reconstruct(0.1 * torch.randn(1, 9_600)).isfinite().all()
    # going on from it begins with its tables
    from train.stages.quantizers.sim_vq import SimVqTraining

    layer = SimVqTraining(model.encoder.quantizer).layers[0]
    torch.testing.assert_close(layer.codebook, model.encoder.quantizer.layers[0].embed)


def test_an_own_kind_is_exported_where_it_is_registered_and_refused_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    training = ("--model.init_args.quantizer_training", "my_quantizer.SignsTraining")
    kind = ("--model.init_args.model.quantizer", "signs", "--model.init_args.model.codebook_size", 2)
    assert fit("tiny.yaml", "--name", "signs", *training, *kind) == 0
    last = "runs/signs/checkpoints/last.ckpt"
    export(last, "signs", dtype="float32")
    wav = 0.1 * torch.randn(1, 9_600)
    assert Tokenizer.from_pretrained("signs").encode(wav).unique().tolist() == [0, 1]
    quantizers._registered.clear()
    capsys.readouterr()
    assert run_train("export", "--name", "signs") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "quantizer='signs': known here are residual_vq, fsq" in line
    assert "mimotok.register_quantizer('signs', YourClass)" in line
    assert not Path("runs/signs/model").exists()
    with pytest.raises(ValueError, match="register_quantizer"):
        Tokenizer.from_pretrained("signs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.init_args.model.d_modle", 64), "d_modle': unknown key: did you mean d_model?"),
        (("--model.init_args.model.d_model", 50), "d_model=50 does not split into encoder_attention_heads=2"),
        (("--model.init_args.model.quantizer", "signs"), "register_quantizer('signs'"),
        (("--model.init_args.losses", "{mel: math.sqrt}"), "losses: mel is a loss of this package"),
        (("--model.init_args.losses", "{a: math.sqrt}", "--model.init_args.loss_weights", "{b: 1}"), "b; this stage"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_is_reported_in_one_line(
    words: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("tiny.yaml", "--name", "wrong", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_discriminators_and_losses_that_return_something_else_are_reported() -> None:
    from torch import nn

    from train.losses.discriminators import judge
    from train.stages.base import _checked_loss

    class Returns(nn.Module):
        def __init__(self, what: Any) -> None:
            super().__init__()
            self.what = what

        def forward(self, wav: torch.Tensor) -> Any:  # noqa: ARG002
            return self.what

    logits = [torch.zeros(2, 1, 5, 1)]
    wav = torch.zeros(2, 9)
    assert judge(Returns((logits, [])), wav, features=False).logits == logits
    for what, message in (
        (logits[0], "returned a Tensor; return Judgements"),
        (([], []), "returned a tuple; return Judgements"),
        (([torch.zeros(2, 1, 5)], [[]]), r"returned \[2, 1, 5\]; return \[batch, channels, time, width\]"),
        ((logits, []), "shows no features"),
        ((logits, [[]]), "shows no features"),
    ):
        with pytest.raises(ValueError, match=message):
            judge(Returns(what), wav)
    for value, message in ((torch.zeros(2), r"power returned \[2\]"), (0.5, "power returned float")):
        with pytest.raises(ValueError, match=message):
            _checked_loss("power", value)
