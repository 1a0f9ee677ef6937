"""Reports: readable, complete, and compared by what is paired. The command line says by its exit code how it went."""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.__main__ import expand_lists, main
from eval.report import files, page
from eval.report.pictures import draw_pictures
from eval.report.schema import FORMAT, load_results, save_results
from eval.report.tables import fill_tables
from eval.run import tasks
from tests.helpers.browser import Watched, chromium
from tests.helpers.paths import ROOT


@pytest.fixture
def measure(fake, fake_metric, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ARG001
    """measure(name, codec=change, ...): the exit code of a run into the folder `name`, which is returned too."""
    # drawing takes seconds, and one test of it is enough
    monkeypatch.setattr(files, "draw_pictures", lambda *_: [])
    # a process of their own would not know the codec that `fake` adds here
    monkeypatch.setattr(tasks, "_run_one_by_one", tasks._run_here)

    def go(name, *words, **changes):
        for label, change in changes.items():
            fake(label, change)
        out = tmp_path / name
        arguments = ["--codec", *changes, "--manifest", str(corpus), "--out", str(out), "--metric", "signal", *words]
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        return out, exited.value.code or 0

    return go


def noise(scale):
    return lambda wav: wav + scale * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)


@pytest.mark.slow
def test_a_report_has_its_files_and_nothing_that_is_not_json(measure, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setattr(files, "draw_pictures", draw_pictures)
    out, code = measure("out", good=noise(0.001), poor=noise(0.1))
    assert code == 0
    text = (out / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {codec["label"] for codec in results["codecs"]} == {"good", "poor"}
    for name in ("rate_distortion.png", "distributions.png", "spectrograms.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
        assert f"({name})" in (out / "report.md").read_text()
    page = (out / "index.html").read_text()
    sources = re.findall(r'data-src="([^"]+)"', page)
    assert len(sources) == 3 * 3
    # on a phone each figure stands beside the name of its column
    assert re.findall(r'data-label="([^"]+)"', page)[0] == "bit/s"
    assert all((out / source).is_file() for source in sources)
    assert set((out / ".gitignore").read_text().split()) == {"/audio/", "/cache.jsonl", "/.gitignore"}


def test_titles_of_pictures_are_not_clipped() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from eval.report.pictures import _panels

    figure, axes = _panels(1, "Best, median and worst recording of a codec whose label is a path/that/goes/on/and/on")
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= next(iter(axes)).get_window_extent().y1


def test_pages_do_not_take_names_for_markup(measure, corpus: Path) -> None:
    (corpus / "a.wav").rename(corpus / "<b>&.wav")
    out, _ = measure("out", codec=noise(0.01))
    assert "<b>&" not in (out / "index.html").read_text()


@pytest.mark.slow
def test_comparison_tells_worse_from_better_from_the_same(measure, capsys: pytest.CaptureFixture[str]) -> None:
    good, _ = measure("good", codec=noise(0.01))
    poor, _ = measure("poor", codec=noise(0.1))
    codes = {}
    for a, b in ((good, poor), (poor, good), (good, good)):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["compare", str(a / "results.json"), str(b / "results.json")])
        codes[a.name, b.name] = exited.value.code or 0, capsys.readouterr().out
    assert codes["good", "poor"][0] == 1
    assert "worse" in codes["good", "poor"][1]
    assert codes["poor", "good"][0] == 0
    assert "better" in codes["poor", "good"][1]
    assert codes["good", "good"][0] == 0


@pytest.mark.slow
def test_nothing_in_common_is_reported(measure, capsys: pytest.CaptureFixture[str]) -> None:
    a, _ = measure("a", one=noise(0.01))
    b, _ = measure("b", two=noise(0.01))
    with pytest.raises(SystemExit) as exited:
        main(["compare", str(a / "results.json"), str(b / "results.json")])
    assert exited.value.code == 2
    assert "no codec in common" in capsys.readouterr().err


def test_failures_are_the_exit_code_and_a_line_each(measure, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "broken.wav").write_text("no audio")
    out, code = measure("out", codec=noise(0.01))
    assert code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "broken.wav" in line]) == 1
    assert "broken.wav" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "beauty"], "give signal"),
        (["--min-seconds", "99"], "no recording lasts"),
        (["--every", "0"], "every=0"),
    ],
)
def test_bad_requests_end_in_one_line_and_code_2(
    measure, capsys: pytest.CaptureFixture[str], words, message: str
) -> None:
    _, code = measure("out", *words, codec=noise(0.01))
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_lists_are_given_as_people_type_them() -> None:
    assert expand_lists(["--n-q", "2", "4", "--out", "x", "--codec", "a", "b"]) == [
        *("--n-q", "2", "--n-q", "4", "--out", "x", "--codec", "a", "--codec", "b")
    ]
    assert expand_lists(["compare", "a", "b"]) == ["compare", "a", "b"]


def test_tables_go_into_documents_again_and_again(measure, tmp_path: Path) -> None:
    out, _ = measure("out", codec=noise(0.01))
    results = load_results(out / "results.json")
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- eval: main -->\nold\n<!-- /eval -->\nafter\n")
    assert fill_tables(document, results) == 1
    once = document.read_text()
    assert "| codec |" in once
    assert "old" not in once
    fill_tables(document, results)
    assert document.read_text() == once
    # one kind of table alone: the other keeps what it holds
    document.write_text(f"{once}<!-- eval: codebooks -->\nold\n<!-- /eval -->\n")
    assert fill_tables(document, results, only="codebooks") == 1
    both = document.read_text()
    assert both.startswith(once)
    assert "old" not in both
    with pytest.raises(ValueError, match="no table 'best'"):
        fill_tables(document, results, only="best")
    document.write_text("nothing here")
    with pytest.raises(ValueError, match="no place"):
        fill_tables(document, results)
    document.write_text("<!-- eval: best -->\n<!-- /eval -->")
    with pytest.raises(ValueError, match="'best'"):
        fill_tables(document, results)


@pytest.mark.parametrize(
    "document", ["README.md", "docs/encode.md", "docs/evaluate.md", "checkpoints/default/README.md"]
)
def test_tables_of_the_documents_are_those_of_the_committed_report(document: str, tmp_path: Path) -> None:
    text = (ROOT / document).read_text()
    copy = tmp_path / "copy.md"
    copy.write_text(text)
    fill_tables(copy, load_results(ROOT / "reports/default/results.json"))
    # a row for each number of codebooks comes from a report of its own, once it was made
    codebooks = ROOT / "reports/codebooks/results.json"
    if codebooks.is_file() and "eval: codebooks" in text:
        fill_tables(copy, load_results(codebooks), only="codebooks")
    assert copy.read_text() == text


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_results_keep_any_json(value) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        save_results(path, {"format": FORMAT, "value": value})
        assert load_results(path)["value"] == value


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', "{"])
def test_other_files_are_not_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results(path)


@pytest.mark.slow
def test_the_page_plays_compares_and_sorts_in_a_browser(measure):
    out, _ = measure("out", good=noise(0.001), poor=noise(0.1))
    with chromium() as browser:
        watched = Watched(browser)
        tab = watched.tab
        tab.goto((out / "index.html").as_uri())
        row = tab.locator("table.listen tbody tr").nth(1)
        row.locator("button").nth(1).click()
        tab.wait_for_selector("#title:text-matches(', good$')")
        # it plays: the position moves on, and stays at the end of a short sound
        tab.wait_for_function("Number(document.querySelector('#seek').value) > 0")
        row.locator("button").nth(2).click()
        tab.wait_for_selector("#title:text-matches(', poor$')")
        assert row.locator("button.on").count() == 1
        assert tab.text_content("#message") == ""
        names = tab.locator("table.listen tbody tr > th")
        before = names.all_text_contents()
        # by name, down and then up: the rows are moved, and none is lost
        for expected in (sorted(before), sorted(before, reverse=True)):
            tab.locator("table.listen thead button").first.click()
            assert names.all_text_contents() == expected
        # numbers are sorted as numbers, and a click on another column begins anew
        column = tab.locator("table.listen thead th").nth(1)
        column.locator("button").click()
        assert column.get_attribute("aria-sort") == "ascending"
        watched.close(out.as_uri())


def test_every_column_of_the_page_says_what_it_means(measure):
    out, _ = measure("out", codec=noise(0.01))
    page = (out / "index.html").read_text()
    heads = re.findall(r'<th scope="col" title="([^"]*)"', page)
    assert len(heads) >= 5
    assert all(heads)


def test_the_page_says_what_every_figure_means_and_wavs_go_where_they_are_asked_for(measure, tmp_path: Path) -> None:
    out, code = measure("out", "--export-wavs", str(tmp_path / "wavs"), good=noise(0.001))
    assert code == 0
    names = [sorted(path.name for path in (tmp_path / "wavs" / side).iterdir()) for side in ("original", "good")]
    assert names[0] == names[1]
    assert len(names[0]) == 3
    results = load_results(out / "results.json")
    results["metrics"][0]["headline"] = False
    page.write_page(out / "index.html", results, [])
    text = (out / "index.html").read_text()
    for metric in results["metrics"]:
        assert f"<b>{metric['title']}" in text
        assert metric["method"] in text
