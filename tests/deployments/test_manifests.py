"""The manifests we ship load, and the starter's says only what the starter prior knows."""

from pathlib import Path

import pytest

from pipeline_core.manifest import load_manifest

FOLDER = Path(__file__).resolve().parents[2] / "deployments" / "manifests"


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_shipped_manifest_loads(path):
    assert load_manifest(path).specs


def test_the_starter_manifest_keeps_to_the_words_of_the_starter_prior():
    from pipeline_core.props.captions import VOCABULARY, parse_caption

    specs = load_manifest(FOLDER / "starter.csv").specs
    assert len(specs) >= 8
    assert all(set(spec.prompt.split()) <= set(VOCABULARY) for spec in specs)
    things = [parse_caption(spec.prompt) for spec in specs]
    assert len({thing.category for thing in things}) == len(specs)
    assert all(spec.tags["category"] == thing.category for spec, thing in zip(specs, things))
