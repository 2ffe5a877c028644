"""The acceptance contract: its clauses, who is held to which, and what is said of a contract that is wrong."""

import json

import pytest

from pipeline_core.acceptance import CLAUSES, Contract, Contracts, Held, Verdict, decided_early, judge
from pipeline_core.config import RECIPES
from pipeline_core.errors import ManifestError
from pipeline_core.manifest import load_contracts, load_manifest
from pipeline_core.spec import AssetSpec


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda each: each.name)
def test_a_clause_holds_up_to_its_bound_and_not_beyond(clause):
    contract = Contract(bounds={clause.name: 0.5})
    beyond = 1 if clause.direction == "at most" else -1

    def verdict(figure):
        return judge(contract, {"judged": 1.0, clause.metric: figure})

    assert verdict(0.5).verdict == verdict(0.5 - beyond / 4).verdict == "accepted"
    broken = verdict(0.5 + beyond / 4)
    assert broken.verdict == "rejected" and [each.name for each in broken.failed] == [clause.name]
    assert str(broken) == f"{clause.name} {0.5 + beyond / 4} ({clause.direction} 0.5)"
    assert verdict(float("nan")).verdict == "unjudged" and Verdict.from_json(broken.to_json()) == broken
    early = decided_early(contract, {clause.metric: 0.5 + beyond / 4})
    assert (early == Verdict(broken.failed)) if clause.early else early is None
    assert decided_early(contract, {clause.metric: 0.5}) is None


def test_what_nobody_judged_is_unjudged_unless_the_contract_says_otherwise():
    assert judge(None, {"judged": 1}).verdict == "accepted"
    assert judge(None, {"judged": 0}).verdict == judge(None, {}).verdict == "unjudged"
    assert judge(Contract(bounds={"faces": 5}), {"faces": 4}).verdict == "unjudged"
    assert judge(Contract(bounds={"faces": 5}), {"faces": 6}).verdict == "rejected"
    assert judge(Contract(bounds={"judged": True}), {"judged": 0}).verdict == "rejected"
    assert judge(Contract(bounds={"judged": False, "faces": 5}), {"judged": 0, "faces": 4}).verdict == "accepted"
    assert str(judge(Contract(bounds={"janus": 0.5}), {"judged": 1})) == "janus not measured (at most 0.5)"


def test_a_contract_is_merged_from_all_recipe_tag_and_row():
    contracts = Contracts(
        {"faces": 5000, "fidelity": 0.1}, {"draft": {"faces": 2000}}, {"hero": {"faces": 9000}, "set=b": {"kb": 5}}
    )
    assert contracts.of("factory", {}).bounds == {"faces": 5000, "fidelity": 0.1}
    assert contracts.of("draft", {}).bounds["faces"] == 2000
    assert contracts.of("draft", {"hero": "", "set": "a"}).bounds == {"faces": 9000, "fidelity": 0.1}
    row = contracts.of("draft", {"hero": "", "set": "b"}, {"faces": 7, "fidelity": None, "attempts": 4})
    assert row == Contract(bounds={"faces": 7, "kb": 5}, attempts=4) and Contracts().of("draft", {}) is None


def test_a_contract_enters_a_spec_only_where_there_is_one():
    plain = AssetSpec(prompt="a mug", recipe=RECIPES["draft"])
    held = AssetSpec(prompt="a mug", recipe=RECIPES["draft"], accept={"faces": 9, "attempts": 3})
    assert "accept" not in plain.to_json() and held.accept == Contract(bounds={"faces": 9}, attempts=3)
    assert AssetSpec.from_json(json.loads(json.dumps(held.to_json()))) == held


YAML = """
accept:
  fidelity: 0.05
  watertight: true
  attempts: 3
  recipes: {draft: {fidelity: 0.02}}
  tags: {hero: {texel_density: 400}}
assets:
  - {prompt: a red mug, tags: [hero], accept: {kb: 900}}
  - {prompt: a blue mug, recipe: draft}
"""


def test_a_manifest_has_contracts_beside_its_rows_and_a_file_takes_their_place(tmp_path):
    path, other = tmp_path / "props.yaml", tmp_path / "contract.yaml"
    path.write_text(YAML)
    mug, draft = (spec.accept for spec in load_manifest(path).specs)
    assert mug.bounds == {"fidelity": 0.05, "kb": 900, "texel_density": 400, "watertight": 1} and mug.attempts == 3
    assert draft.bounds == {"fidelity": 0.02, "watertight": 1}
    other.write_text("faces: 800\n")
    mug, draft = (spec.accept.bounds for spec in load_manifest(path, accept=load_contracts(other)).specs)
    assert (mug, draft) == ({"faces": 800, "kb": 900}, {"faces": 800})
    table = tmp_path / "props.csv"
    table.write_text('id,prompt,accept\nmug,a mug,"{""faces"": 90}"\nbowl,a bowl,\n')
    specs = load_manifest(table, accept=load_contracts(other)).specs
    assert [spec.accept.bounds for spec in specs] == [{"faces": 90}, {"faces": 800}]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("fidelty: 1", "accept.fidelty, 1: no clause; did you mean fidelity?"),
        ("watertight: 3", "accept.watertight, 3: true or false"),
        ("faces: many", "accept.faces, 'many': a number: at most so many"),
        ("attempts: 99", "accept.attempts, 99: an integer from 1 to 16"),
        ("recipes: {drat: {faces: 1}}", "accept.recipes, 'drat': one of "),
        ("tags: {hero: {face: 1}}", "accept.tags.hero.face, 1: no clause; did you mean faces?"),
        ("tag: {hero: {faces: 1}}", "accept.tag, {'hero': {'faces': 1}}: no clause; did you mean tags?"),
        ("- faces", "accept, ['faces']: a mapping of clauses to bounds"),
    ],
)
def test_what_is_wrong_in_a_contract_is_told_with_file_and_field(tmp_path, wrong, told):
    path = tmp_path / "contract.yaml"
    path.write_text(wrong + "\n")
    with pytest.raises(ManifestError) as error:
        load_contracts(path)
    assert f"{path}, {told}" in str(error.value)


def test_what_is_wrong_in_a_row_s_contract_is_told_with_its_row(tmp_path):
    path = tmp_path / "props.csv"
    path.write_text('prompt,accept\na mug,"{""facets"": 90}"\n')
    with pytest.raises(ManifestError, match=r"props.csv, row 2, accept.facets, 90: no clause; did you mean faces\?"):
        load_manifest(path)


def test_a_held_clause_reads_as_a_sentence_s_part():
    assert str(Held("faces", 5000, 6000, False)) == "faces 6000 (at most 5000)"


def test_what_no_judge_could_ever_tell_is_rejected_before_any_work():
    contract = Contract(bounds={"judged": True, "fidelity": 0.0})
    turned_down = decided_early(contract, {"judgeable": 0.0})
    assert turned_down.verdict == "rejected" and str(turned_down) == "judgeable 0 (at least 1)"
    assert decided_early(contract, {"judgeable": 1.0}) is None
    assert decided_early(Contract(bounds={"fidelity": 0.0}), {"judgeable": 0.0}) is None
