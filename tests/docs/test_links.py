"""Whatever a page, a comment or a message points to is there: files, sections, pictures."""

import re

import pytest

from tests.docs.pages import CONFIGURATION, PAGES, ROOT, SOURCES, blocks

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*PAGES, *CONFIGURATION, *SOURCES]}
TOP = "flows|tasks|catalog|pipeline_core|tests|docs|deployments"
LATER = {"deployments/.env", "tests/bench/results/", "tests/bench/results/h100.csv"}
"""Files that a reader is told to make."""


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def headings(path):
    """The headings of a page, outside of its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [found.replace("`", "") for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]


def links(text):
    """Targets of a Markdown page's links and pictures."""
    for _, block in blocks(text):
        text = text.replace(block, "")
    return re.findall(r"\]\(([^)\s]+)\)", text)


def broken(page, target):
    """Why a link of ``page`` leads nowhere; empty when it leads somewhere."""
    if re.match(r"https?://|mailto:", target):
        return ""
    name, _, anchor = target.partition("#")
    path = (page.parent / name) if name else page
    if not path.exists():
        return f"{target}: there is no {path}"
    found = [slug(heading) for heading in headings(path)] if anchor else []
    return f"{target}: no heading of {path.name} is #{anchor}" if anchor and anchor not in found else ""


def sections(text):
    """Pages and sections that a text sends its reader to: ``deployments/README.md, Every night``."""
    return re.findall(r"\b((?:[\w-]+/)*(?:[\w-]+\.md|README)), ([A-Z][\w ]*)", text)


def paths(text):
    """Files and folders of the tree that a text names."""
    text = re.sub(r"https?://\S+", "", text)
    found = re.findall(rf"(?<![\w./<>{{-])((?:{TOP})/[\w./*@-]*[\w/*])", text)
    return [path for path in found if "." in path.rpartition("/")[2] or path.endswith("/")]


def page_of(name):
    """The page that a text calls ``README`` or ``docs/LOG.md``."""
    return ROOT / (name if name.endswith(".md") else f"{name}.md")


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_links_lead_somewhere(name):
    assert [why for target in links(TEXTS[name]) if (why := broken(ROOT / name, target))] == []


@pytest.mark.parametrize("name", sorted(name for name in TEXTS if sections(TEXTS[name])))
def test_sections_that_are_named_exist(name):
    for page, title in sections(" ".join(TEXTS[name].split())):
        assert any(title.startswith(heading) for heading in headings(page_of(page))), f"{page}, {title}"


@pytest.mark.parametrize("name", sorted(name for name in TEXTS if paths(TEXTS[name])))
def test_files_that_are_named_exist(name):
    missing = [path for path in paths(TEXTS[name]) if path not in LATER and not list(ROOT.glob(path.rstrip("/")))]
    assert missing == []


def test_what_leads_nowhere_would_be_found():
    readme = ROOT / "README.md"
    assert broken(readme, "docs/NONE.md") and broken(readme, "deployments/README.md#nowhere")
    assert not broken(readme, "deployments/README.md#every-night") and not broken(readme, "https://example.org/x")
    assert sections("releases; see README, Troubleshooting.") == [("README", "Troubleshooting")]
    assert paths("see `docs/NONE.md` and flows/none.py") == ["docs/NONE.md", "flows/none.py"]
