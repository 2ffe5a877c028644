"""Judges: files round-trip, bad files are refused by name, padding changes nothing, and CLIP goes the same way."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.errors import ModelNotFound
from pipeline_core.metrics.judge import ClipJudge, JudgeNetwork, JudgeShape, StarterJudge, load_judge, save_judge

SHAPE = JudgeShape(("red", "blue", "mug", "house", "with", "a", "roof"), 3, 4, size=16, widths=(4, 8), text_width=8)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return JudgeNetwork(SHAPE).eval()


def test_what_is_saved_is_what_is_loaded(network, tmp_path):
    save_judge(network, tmp_path / "judge")
    loaded, direct = load_judge(str(tmp_path / "judge")), StarterJudge(network, "direct")
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    texts = ["a red mug", "a blue house with red roof"]
    assert loaded.model_id.startswith("judge-judge@") and loaded.network.shape == SHAPE
    for ours, theirs in (
        (loaded.embed_images(images), direct.embed_images(images)),
        (loaded.embed_texts(texts), direct.embed_texts(texts)),
        (loaded.sides(images), direct.sides(images)),
    ):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # fp16 on disk
    torch.testing.assert_close(loaded.embed_images(images).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(loaded.sides(images).sum(1), torch.ones(3))


def test_an_embedding_does_not_depend_on_its_neighbours(network):
    judge = StarterJudge(network, "x")
    alone = judge.embed_texts(["a red mug"])
    beside = judge.embed_texts(["a blue house with red roof", "a red mug"])[1:]
    torch.testing.assert_close(alone, beside)
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(judge.embed_images(images)[2:3], judge.embed_images(images[2:3]))


def test_word_order_synonyms_and_unknown_words(network):
    judge = StarterJudge(network, "x")
    one, other = judge.embed_texts(["a red house with blue roof", "a blue house with red roof"])
    assert not torch.allclose(one, other, atol=1e-3)
    same = judge.embed_texts(["A red cup!", "a red mug"])
    torch.testing.assert_close(same[0], same[1])
    assert network.word_ids(["zyx mug"]).tolist() == [[1, 4]] and network.word_ids([""]).tolist() == [[1]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not a tensor"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: _edit(folder, drop="project.weight"), "project.weight"),
        (lambda folder: _config(folder, embedding=7), "cannot be read"),
        (lambda folder: _config(folder, version=2), "version 1"),
    ],
)
def test_damaged_files_are_refused(network, tmp_path, damage, message):
    folder = tmp_path / "judge"
    save_judge(network, folder)
    damage(folder)
    with pytest.raises(ModelNotFound, match=message):
        load_judge(str(folder))


def _edit(folder, drop):
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != drop}, folder / "model.safetensors")


def _config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP of a few thousand random weights, in transformers' files."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in "abcdefgh"), *"abcdefgh"]
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small
        | {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return tmp_path


def test_clip_is_what_transformers_computes(clip_folder):
    from transformers import CLIPModel

    judge = load_judge(str(clip_folder))
    assert isinstance(judge, ClipJudge) and judge.knows_any_text and judge.sides(torch.rand(1, 3, 32, 32)) is None
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = judge.tokenizer(["a b", "c d e f"], padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**tokens, pixel_values=(images - 0.5) / 0.25)
    torch.testing.assert_close(judge.embed_images(images), out.image_embeds)
    torch.testing.assert_close(judge.embed_texts(["a b", "c d e f"]), out.text_embeds)


def test_a_text_model_alone_is_no_judge(clip_folder):
    config = json.loads((clip_folder / "config.json").read_text())
    (clip_folder / "config.json").write_text(json.dumps(config | {"model_type": "clip_text_model"}))
    with pytest.raises(ModelNotFound, match="not a CLIP model"):
        load_judge(str(clip_folder))


def test_nobody_knows_this_model(tmp_path):
    with pytest.raises(ModelNotFound, match="no such folder"):
        load_judge(str(tmp_path / "nowhere"))


def test_images_of_any_size_are_judged_alike(network):
    """Area-averaging a picture before is much the same as handing it over large."""
    judge = StarterJudge(network, "x")
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    large = torch.from_numpy(np.stack([np.add.outer(ramp, ramp) / 2] * 3))[None]
    small = torch.nn.functional.avg_pool2d(large, 4)
    assert float((judge.embed_images(large) * judge.embed_images(small)).sum()) > 0.999
