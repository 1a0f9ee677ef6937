"""Hooks of mkdocs: documents of other folders become pages of the site, and links work there as they do in a checkout.

A link that leads out of the site goes to the repository at `REPO_URL`, an environment variable; without it, only its
text is kept.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# what lies outside docs/ and is part of the site: its place in the repository, and in the site
SHARED = {
    "train/README.md": "reference/training.md",
    "eval/README.md": "reference/evaluation.md",
    "bench/README.md": "reference/benchmarks.md",
    "checkpoints/README.md": "reference/checkpoints.md",
    "checkpoints/default/README.md": "reference/model_card.md",
    "examples/README.md": "reference/examples.md",
    "examples/audio_lm/README.md": "reference/example_audio_lm.md",
    "examples/asr_adapter/README.md": "reference/example_asr_adapter.md",
    "examples/continuous/README.md": "reference/example_continuous.md",
    "examples/duplex/README.md": "reference/example_duplex.md",
    "reports/default/report.md": "reference/report.md",
    "reports/ablation/report.md": "reference/ablation.md",
    "reports/log.md": "reference/log.md",
    "SECURITY.md": "reference/security.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
    "reports/default/rate_distortion.png": "pictures/rate_distortion.png",
    "reports/default/distributions.png": "pictures/distributions.png",
    "reports/default/spectrograms.png": "pictures/spectrograms.png",
}
LINK = re.compile(r"(?<!`)(!?)\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)\s*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the shared documents and pictures to the site."""
    from mkdocs.structure.files import File

    for source, place in SHARED.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite a page's links."""
    sources = {place: source for source, place in SHARED.items()}
    place = page.file.src_uri
    return rewrite_links(markdown, sources.get(place, f"docs/{place}"), os.environ.get("REPO_URL", ""))


def rewrite_links(markdown: str, source: str, repository: str) -> str:
    """Rewrite the links of a document so that they work in the site.

    Args:
        markdown: the document's text.
        source: its path in the repository.
        repository: address of the repository; empty where it is not known.

    Returns:
        The text with other links. Links to addresses and inside the page, and code, stay as they are.

    Raises:
        ValueError: a link leads to a file that is not in the repository.
    """

    def rewritten(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if wanted.startswith("..") or not (ROOT / wanted).exists():
            raise ValueError(f"{source}: the link {target} leads to {wanted}, which does not exist")
        place = site_place(wanted)
        if place is not None:
            here = posixpath.dirname(site_place(source) or source)
            return f"{picture}[{label}]({posixpath.relpath(place, here or '.')}{hash_sign}{anchor})"
        return f"{picture}[{label}]({repository}/blob/main/{wanted}{hash_sign}{anchor})" if repository else label

    parts = []
    end = 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(rewritten, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(rewritten, markdown[end:])])


def site_place(path: str) -> str | None:
    """Return where a file of the repository lies in the site, or None where it is not part of it."""
    return path.removeprefix("docs/") if path.startswith("docs/") else SHARED.get(path)
