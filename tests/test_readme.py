"""The commands and snippets of README and of the pages in docs/, run as they stand there; links and pictures exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mimotok import weights
from mimotok.cli.main import app
from mimotok.config import TokenizerConfig
from scripts.docs_hooks import SHARED, rewrite_links
from scripts.draw_signal_path import draw
from tests.helpers.paths import ROOT
from tests.helpers.warm_python import warm_python

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
# pages whose code other tests run, because it needs more than a sample and this environment
ELSEWHERE = {
    "docs/corpora.md": "tests/corpus",
    "docs/page.md": "tests/page",
    "docs/extend.md": "tests/train/test_extend.py",
}
# a snippet that several pages show runs once
SEEN: set[str] = set()

needs_checkpoint = pytest.mark.skipif(
    not (ROOT / "checkpoints/default" / weights.WEIGHTS_NAME).is_file(), reason="no embedded checkpoint in this tree"
)


def blocks(page: str, language: str) -> list[str]:
    """List the fenced blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def unseen(texts: list[str]) -> list[str]:
    """List the texts that no earlier page has shown."""
    new = [text for text in texts if text not in SEEN]
    SEEN.update(new)
    return new


def run_page(page: str) -> None:
    """Run the Python of a page, each block by itself, then its commands."""
    for snippet in unseen(blocks(page, "python")):
        exec(compile(snippet, page, "exec"), {"__name__": "page"})
    for line in unseen([line for text in blocks(page, "sh") for line in text.splitlines()]):
        words = shlex.split(line, comments=True)
        if words[:1] == ["mimotok"]:
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, (line, result.output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages read: the sample as in.wav, its codes, a manifest of it, and recordings."""
    from mimotok import Tokenizer, encode_file, load_audio, save_audio

    path = tmp_path_factory.mktemp("pages")
    # five seconds: several pages encode it, in blocks too
    save_audio(path / "in.wav", load_audio(ROOT / "examples/sample.flac", 24_000)[:, : 5 * 24_000], 24_000)
    (path / "recordings").mkdir()
    save_audio(path / "recordings/short.wav", load_audio(path / "in.wav", 24_000)[:, :24_000], 24_000)
    encode_file(Tokenizer.from_pretrained(), path / "in.wav", path / "out.npz")
    duration = float(load_audio(path / "in.wav", 24_000).shape[-1]) / 24_000
    rows = [{"audio": "in.wav", "duration": duration, "text": "a sample", "split": name} for name in ("train", "dev")]
    (path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def workplace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a page."""
    monkeypatch.chdir(folder)


WITH_CODE = [page for page in PAGES if page not in ELSEWHERE and (blocks(page, "python") or blocks(page, "sh"))]


@pytest.mark.slow
@needs_checkpoint
@pytest.mark.parametrize("page", WITH_CODE)
@pytest.mark.usefixtures("workplace")
def test_the_code_of_a_page_runs(page: str) -> None:
    run_page(page)


def test_readme_shows_python_and_commands() -> None:
    assert blocks("README.md", "python")
    assert sum(line.startswith("mimotok ") for text in blocks("README.md", "sh") for line in text.splitlines()) >= 2
    assert len(README.splitlines()) <= 120


@pytest.mark.slow
@needs_checkpoint
def test_demo() -> None:
    done = subprocess.run([warm_python(), "scripts/demo.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1550 bit/s" in done.stdout
    stoi = re.search(r"STOI\s*\W\s*([\d.]+)", done.stdout)
    assert stoi is not None
    assert float(stoi[1]) > 0.75


def test_the_tree_names_every_folder() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page[page.index("## The tree") :]
    packages = [path.parent.relative_to(ROOT) for path in (ROOT / "mimotok").rglob("__init__.py")]
    for folder in [*packages, Path("train"), Path("eval"), Path("bench"), Path("tests"), Path("docs")]:
        assert f"{folder.name}/" in tree, f"the tree in docs/architecture.md lacks {folder}"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_pages_name_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^(?:`?)make (\w+)", (ROOT / page).read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", [*PAGES, *(path for path in SHARED if path.endswith(".md"))])
def test_links_lead_to_files_of_the_repository(document: str) -> None:
    # the badge of the tests leads out of the tree, to the page of the repository's workflow
    text = (ROOT / document).read_text().replace("../../actions", "https://actions")
    rewrite_links(text, document, "https://repository")


def test_links_that_lead_nowhere_are_named() -> None:
    with pytest.raises(ValueError, match=r"docs/a\.md: the link none\.md leads to docs/none\.md"):
        rewrite_links("[x](none.md)", "docs/a.md", "")
    assert rewrite_links("[x](../LICENSE) `[y](z)`", "docs/a.md", "") == "x `[y](z)`"
    assert rewrite_links("[x](../train/README.md#data)", "docs/a.md", "") == "[x](reference/training.md#data)"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    places = [place for place in SHARED.values() if place.endswith(".md")]
    for place in [*places, *(page.removeprefix("docs/") for page in PAGES[1:])]:
        assert re.search(rf"[ :-] {re.escape(place)}$", navigation, re.MULTILINE), f"mkdocs.yml does not name {place}"


def test_the_picture_of_the_signal_path_is_that_of_the_embedded_model() -> None:
    config = TokenizerConfig.load(ROOT / "checkpoints/default/config.json")
    assert (ROOT / "docs/pictures/signal_path.svg").read_text() == draw(config)


def test_the_table_of_extras_is_complete() -> None:
    page = (ROOT / "docs/install.md").read_text()
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    for extra in re.findall(r"^(\w+) = \[", section, re.MULTILINE):
        assert f"`{extra}`" in page, f"docs/install.md does not say what {extra} is for"
