"""docs/LOG.md can be found in: every dated entry stands in the index at its top, under its own words."""

import re

from tests.docs.pages import ROOT
from tests.docs.test_links import slug

LOG = (ROOT / "docs" / "LOG.md").read_text()
INDEX, ENTRIES = LOG.split("\n## ", 1)
DATED = re.findall(r"^## (.*)$", f"## {ENTRIES}", re.MULTILINE)
LINES = re.findall(r"^- (.*)$", INDEX, re.MULTILINE)


def test_every_entry_is_dated_and_indexed():
    assert DATED and all(re.search(r", 20\d\d-\d\d-\d\d$", title) for title in DATED)
    indexed = set(re.findall(r"^- \[(.*?)\]", INDEX, re.MULTILINE))
    assert indexed == set(DATED)


def test_every_line_of_the_index_leads_to_its_entry_and_says_what_is_there():
    for line in LINES:
        title, anchor, said = re.fullmatch(r"\[(.*)\]\(#(.*)\): (.+)", line).groups()
        assert anchor == slug(title) and said, line


def test_no_two_entries_have_one_anchor():
    assert len({slug(title) for title in DATED}) == len(DATED)
