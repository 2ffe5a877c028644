"""Training the judge: data by seed, a loss that goes down, and a resume that changes no bit."""

import json

import numpy as np
import pytest
import torch

from pipeline_core.errors import RequestError
from pipeline_core.metrics.judge import JudgeNetwork, JudgeShape, load_judge, load_network, save_judge
from pipeline_core.props.captions import VOCABULARY
from pipeline_core.props.props import CATEGORIES, COLOURS
from pipeline_core.training.judge_data import Chunks, augment, codes_agree, make_batch, make_chunk, side_label
from pipeline_core.training.judge_train import Settings, examine, main, new_network, train_judge

TINY = Settings(batch=16, warmup=2)


def test_a_chunk_is_a_function_of_seed_and_index(tmp_path):
    for name, index in (("a", 3), ("b", 3), ("c", 4)):
        make_chunk(tmp_path / f"{name}.npz", seed=1, index=index, count=70)
    a, b, c = (dict(np.load(tmp_path / f"{name}.npz", allow_pickle=False)) for name in "abc")
    assert a["rgba"].shape == (70, 64, 64, 4) and a["angles"].shape == (70, 2)
    assert len(json.loads(a["specs"].tobytes())) == 70
    assert all(np.array_equal(a[key], b[key]) for key in a) and not np.array_equal(a["rgba"], c["rgba"])
    coverage = (a["rgba"][..., 3] > 128).mean((1, 2))
    assert coverage.min() > 0.01 and 0.1 < coverage.mean() < 0.6


def test_sides_follow_the_azimuth_and_the_mirror():
    assert [side_label(a, False) for a in (0, 90, 180, -90, 360 + 20)] == [0, 1, 2, 3, 0]
    assert [side_label(a, True) for a in (0, 90, 180, -90)] == [0, 3, 2, 1]
    assert side_label(44, False) == side_label(-130, True) == -1


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    chunks = Chunks(tmp_path, seed=1, count=64)
    one, again = (make_batch(chunks, 5, size=16, reuse=4.0, seed=1) for _ in range(2))
    other = make_batch(chunks, 6, size=16, reuse=4.0, seed=1)
    assert torch.equal(one.images, again.images) and one.texts == again.texts and one.texts != other.texts
    assert one.images.shape == (16, 3, 64, 64) and 0 <= one.images.min() and one.images.max() <= 1
    assert len(one.texts) == 16 * 4 and None not in one.texts[:16]
    codes = [tuple(row) for row in one.codes.tolist()]
    assert all(codes_agree(code, code) for code in codes)


def test_augmentation_mirrors_where_it_says_so():
    """The left half of the picture is red; averaged over many draws, a mirrored one has its red on the right."""
    rgba = torch.zeros(64, 4, 32, 32)
    rgba[:, 0, :, :16] = rgba[:, 2, :, 16:] = rgba[:, 3] = 1
    flip = torch.arange(64) % 2 == 1
    images = augment(rgba, flip, torch.Generator().manual_seed(0))
    lean = images[:, 0, 12:20, 4:12].mean((1, 2)) - images[:, 0, 12:20, 20:28].mean((1, 2))
    assert lean[~flip].median() > 0.6 and lean[flip].median() < -0.6


def test_a_judge_goes_on_with_more_words_and_categories_and_says_of_the_old_ones_what_it_said(tmp_path):
    fewer = JudgeShape(tuple(VOCABULARY)[1::2], 5, len(COLOURS), widths=(8, 8, 16, 16))
    save_judge(JudgeNetwork(fewer), tmp_path)
    known, grown = load_network(tmp_path).eval(), new_network(5, start=tmp_path).eval()
    assert grown.shape.words == tuple(VOCABULARY) and grown.shape.categories == len(CATEGORIES)
    texts = [f"{VOCABULARY[1]} {VOCABULARY[41]} unheard", VOCABULARY[3]]
    torch.testing.assert_close(grown.text(grown.word_ids(texts)), known.text(known.word_ids(texts)))
    features = known.image(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(grown.category(features)[:, :5], known.category(features))


def test_resume_is_exact_and_the_result_can_be_loaded(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"seed": 3, "settings": TINY, "chunk": 64, "log_every": 3, "examine_count": 2}
    train_judge(whole, steps=6, **options)
    stops = iter([False, False, True])
    assert train_judge(parts, steps=6, should_stop=lambda: next(stops), **options) is None
    assert train_judge(parts, steps=6, **options) is not None
    for name in ("model/model.safetensors", "model/config.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    rows = [json.loads(line) for line in (whole / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6] and rows[1]["loss"] < rows[0]["loss"]
    assert "2 sitting(s)" in (parts / "model" / "README.md").read_text()
    scores = examine(load_judge(str(whole / "model")), count=3, seed=0)
    assert scores["props"] == 3 and 0 <= scores["r_precision"] <= 1
    with pytest.raises(RequestError, match="seed 3, not 4"):
        train_judge(whole, steps=7, **options | {"seed": 4})


def test_training_goes_on_from_a_judge(tmp_path):
    options = {"seed": 3, "settings": TINY, "chunk": 64, "examine_count": 1}
    train_judge(tmp_path / "first", steps=2, **options)
    start = tmp_path / "first" / "model"
    still = TINY.__class__(batch=16, warmup=2, lr=0.0)
    network = train_judge(tmp_path / "second", steps=1, **options | {"seed": 4, "settings": still, "start": start})
    words = load_judge(str(start)).network.state_dict()["text.words.weight"]
    torch.testing.assert_close(network.state_dict()["text.words.weight"], words, atol=1e-3, rtol=0)
    assert "went on from" in (tmp_path / "second" / "model" / "README.md").read_text()


def test_a_judge_keeps_a_share_of_the_one_that_it_went_on_from(tmp_path):
    options = {"seed": 3, "settings": TINY, "chunk": 64, "examine_count": 1}
    train_judge(tmp_path / "first", steps=2, **options)
    start = tmp_path / "first" / "model"
    options |= {"seed": 4, "start": start, "steps": 2}
    came = train_judge(tmp_path / "second", **options).state_dict()
    kept = train_judge(tmp_path / "second", **options, keep=0.75).state_dict()  # resumes where it ended
    begun = new_network(4, start=start).state_dict()
    for name in ("text.words.weight", "image.trunk.1.running_mean", "log_scale"):
        torch.testing.assert_close(kept[name], 0.75 * begun[name] + 0.25 * came[name])
    assert not torch.equal(came["log_scale"], begun["log_scale"])
    assert "0.75 of that one's" in (tmp_path / "second" / "model" / "README.md").read_text()


@pytest.mark.parametrize(("keep", "start"), [("0.5", []), ("1", ["--start", "."]), ("-1", ["--start", "."])])
def test_what_is_kept_is_a_share_of_a_judge(keep, start, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--steps", "1", "--keep", keep, *start])
    assert "a share of the weights of --start" in capsys.readouterr().err
