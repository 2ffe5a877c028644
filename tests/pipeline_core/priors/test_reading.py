"""What is told of a prompt before anything is loaded is what the encoders do with it then."""

import shutil
import subprocess
import sys

import pytest
import torch

from pipeline_core.config import RECIPES
from pipeline_core.priors.reading import Reading, open_model, read
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.priors.wording import view_prompt
from pipeline_core.spec import AssetSpec
from pipeline_core.training.tokenizer import build_tokenizer

TEXTS = [
    "a red mug",
    "A Red MUG.",
    "a mug, front view",
    "naïve café 红色的杯子 \U0001f3b8",
    "it's 3d & 16:9 (x)",
    "mug " * 40,
]
SPELT = ["sd", "sd-77", "sdxl", "sdxl-77", "pixel", "mvdream", "starter-image", "sd3", "sd3-without-t5", "sana"]
CUT = ["sd", "sdxl", "pixel", "sd3-without-t5"]


def ask(prompt, image="starter", points="starter", negative=""):
    changes = {"image_prior": str(image), "init.point_prior": str(points)}
    return read(AssetSpec(prompt=prompt, negative_prompt=negative, recipe=RECIPES["draft"].override(changes)))


@pytest.mark.parametrize("kind", [*SPELT, "flux2", "z-image"])
def test_tokens_are_counted_as_the_encoders_count_them(checkpoint, prior, kind):
    model, encoders = open_model(str(checkpoint(kind)), "image"), prior(kind).encoders
    assert len(model.vocabularies) == len(encoders)
    for vocabulary, encoder in zip(model.vocabularies, encoders):
        for text in TEXTS:
            said = text.lower() if vocabulary.lower else text
            assert vocabulary.count(text) == len(encoder.tokenizer(said, add_special_tokens=False).input_ids)
        if kind not in ("sana", "flux2", "z-image"):  # these put words of their own around a prompt
            assert vocabulary.room == encoder.length - vocabulary.tokenizer.num_special_tokens_to_add(False)


@pytest.mark.parametrize("kind", CUT)
def test_what_is_told_to_be_left_is_what_is_encoded(checkpoint, prior, kind):
    model, p = open_model(str(checkpoint(kind)), "image"), prior(kind)
    text = view_prompt("a red mug. " * 60, "overhead")
    kept = {vocabulary.kept(text)[0] for vocabulary in model.vocabularies}
    assert len(kept) == 1 and text not in kept and all(each.endswith("overhead view") for each in kept)
    torch.testing.assert_close(p.encode_prompts([text]), p.encode_prompts([*kept]))


@pytest.mark.parametrize("kind", SPELT)
def test_windows_are_told_where_they_are_made(checkpoint, prior, kind):
    model = open_model(str(checkpoint(kind)), "image")
    assert (
        model.windows == (kind in ("sd-77", "sdxl-77")) == any(getattr(e, "windows", 0) for e in prior(kind).encoders)
    )
    assert model.viewed == (prior(kind).camera == "none")
    told = ask("a red mug. " * 90, checkpoint(kind), checkpoint(kind) if kind == "starter-points" else "starter")
    assert "image" in told.newly_encoded or kind in ("mvdream", "starter-image")
    assert any(" are dropped" in words and str(checkpoint(kind)) in words for words in told.warnings) != model.windows


@pytest.mark.parametrize("prompt", ["the a of with", "12345 !!!", "x y z", "\U0001f642"])
def test_a_prompt_of_fillers_numbers_or_pictures_says_nothing_to_the_starter(prompt):
    assert ask(prompt).refusal.startswith("words that starter knows: it knows none of these")


def test_pictures_are_words_that_the_starter_does_not_know():
    assert ask("a red mug \U0001f642 3").unknown_words == ("\U0001f642",)
    assert ask("a red mug!, (blue) - gold?") == Reading()


def test_the_starter_names_the_words_that_it_does_not_know(tmp_path):
    assert ask("a red mug") == Reading()
    told = ask("a shiny red mug beside a dragon", negative="ugly, blurry")
    assert told.unknown_words == ("shiny", "beside", "dragon", "ugly", "blurry") and not told.refusal
    assert told.warnings == (
        "starter does not know 'shiny', 'beside', 'dragon' of the prompt",
        "starter does not know 'ugly', 'blurry' of the negative prompt",
    )
    assert ask("a red dragon").warnings[-1] == "no object that starter knows is named: its shape is left to chance"
    assert ask("a red apple") == Reading()
    points = shutil.copytree(resolve_model("starter", "points"), tmp_path / "points")
    build_tokenizer(["a", "red", "mug"]).save_pretrained(points / "tokenizer")
    told = ask("a red apple", points=points)  # which the image prior has seen, and this has not
    assert told.unknown_words == ("apple",) and told.warnings[-1].startswith("no object that starter knows is named")
    assert ask("a red cup") == Reading()  # a word for a mug
    assert (
        "and 3 more words of the prompt"
        in ask("a mug " + " ".join("bcdefghijkl"[i] * 3 for i in range(11))).warnings[0]
    )


@pytest.mark.parametrize("prompt", ["红色的杯子", "dragon", "a dragon in front of the zorblax", "...", "\U0001f3b8"])
def test_a_prompt_of_which_nothing_is_known_is_refused(prompt):
    refusal = ask(prompt).refusal
    assert "anvil, apple" in refusal and "image_prior" in refusal


def test_tokens_beyond_the_starters_window_are_counted():
    told = ask("a very big red mug with a handle and " * 20)
    whole = open_model("starter", "image").vocabularies[0]
    assert told.tokens_dropped == whole.count("a very big red mug with a handle and " * 20) - 22 and not told.refusal
    assert f"starter reads 22 tokens: the last {told.tokens_dropped} of the prompt are dropped" in told.warnings


def test_free_text_that_falls_into_bytes_or_unknown_tokens_is_not_known(checkpoint):
    for kind in ("sd", "pixel", "sd3-without-t5"):
        assert ask("红色的杯子", checkpoint(kind)).refusal.endswith("write them in a language it was trained on")
        assert ask("a red mug", checkpoint(kind)).unknown_words == ()
    told = ask("a red mug 红", checkpoint("pixel"), checkpoint("starter-points"))
    assert told.unknown_words == ("红",) and not told.refusal


def test_what_one_encoder_of_a_prior_reads_is_read(checkpoint):
    assert ask("a red zebra", checkpoint("pixel"), checkpoint("starter-points")).unknown_words == ("zebra",)
    assert ask("a red zebra", checkpoint("sd3"), checkpoint("starter-points")).unknown_words == ()  # CLIP spells it


def test_a_start_that_knows_nothing_is_told(checkpoint):
    told = ask("a dragon", checkpoint("sd-77"))
    assert not told.refusal and told.warnings[-1].startswith("starter reads nothing of the prompt")
    recipe = RECIPES["dreamgaussian"].override({"image_prior": str(checkpoint("sd-77"))})
    assert read(AssetSpec(prompt="a dragon", recipe=recipe)) == Reading()  # it begins with a ball


def test_weights_count_where_there_are_windows_and_are_told_elsewhere(checkpoint):
    for kind, counts in (("sd-77", True), ("sdxl-77", True), ("sd", False), ("sana", False)):
        told = ask("(a red mug:1.3)", checkpoint(kind), checkpoint("starter-points"))
        said = f"{checkpoint(kind)} takes no weights: all words of the prompt count the same" in told.warnings
        assert said != counts
        assert told.newly_encoded == ("image", "points")
    told = ask("(a red mug:99), [handle]")
    assert told.warnings[0].startswith("(a red mug:99) is read as it is written") and "[handle]" in told.warnings[1]
    assert told.newly_encoded == ()


def test_reading_loads_no_torch():
    code = (
        "import sys; from tasks.journey import plan_journey; from pipeline_core.spec import AssetSpec\n"
        "plan_journey('l', 'r', AssetSpec(prompt='a red dragon ' * 20)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_prompts_of_parts_are_read_too():
    parts = [{"prompt": "a brown table"}, {"prompt": "a red dragon"}]
    told = read(AssetSpec(prompt="a red book on a brown table", parts=parts))
    assert told.unknown_words == ("dragon",) and told.warnings[0].startswith("parts[1]: starter does not know 'dragon'")
    assert not told.refusal
    lost = read(AssetSpec(prompt="a red book", parts=[parts[0], {"prompt": "zzz"}]))
    assert lost.refused_part == 1 and "words that starter knows" in lost.refusal
