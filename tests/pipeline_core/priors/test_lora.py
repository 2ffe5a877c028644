"""LoRAs in every layout that people have, against the formula and against diffusers; and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline_core.config import Lora, ModelRef
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.lora import merge
from pipeline_core.priors.resolve import model_id

RANK, ALPHA = 2, 3.0
UNET = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "mid_block.resnets.1.time_emb_proj",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.0.resnets.1.conv_shortcut",
    "conv_in",
    "time_embedding.linear_2",
)
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.2.mlp.fc1")
ORIGINAL = {  # kohya's names for SDXL: those of the original checkpoints, of one residual block a stage
    UNET[0]: "input_blocks_3_1_transformer_blocks_0_attn1_to_q",
    UNET[1]: "input_blocks_3_1_transformer_blocks_0_attn2_to_out_0",
    UNET[2]: "input_blocks_3_1_transformer_blocks_0_ff_net_0_proj",
    UNET[3]: "input_blocks_3_1_proj_in",
    UNET[4]: "input_blocks_1_0_in_layers_2",
    UNET[5]: "input_blocks_2_0_op",
    UNET[6]: "middle_block_2_emb_layers_1",
    UNET[7]: "output_blocks_1_2_conv",
    UNET[8]: "output_blocks_1_0_skip_connection",
    UNET[9]: "input_blocks_0_0",
    UNET[10]: "time_embed_2",
}


def pairs(module, layers, seed=0):
    """A and B of each layer, as a trainer leaves them: convolutions keep their kernel in A."""
    g = torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        shape = module.get_submodule(layer).weight.shape
        made[layer] = (
            torch.randn(RANK, *shape[1:], generator=g),
            torch.randn(shape[0], RANK, *(1,) * (len(shape) - 2), generator=g),
        )
    return made


def diffusers_file(path, networks, metadata=None):
    """``{network: {layer: (A, B)}}`` as ``save_lora_weights`` writes it."""
    tensors = {
        f"{name}.{layer}.lora_{side}.weight": each
        for name, layers in networks.items()
        for layer, pair in layers.items()
        for side, each in zip("AB", pair, strict=True)
    }
    save_file(tensors, path, metadata={"format": "pt"} | (metadata or {}))
    return path


def kohya_file(path, networks, rename=None, alpha=ALPHA):
    """The same as kohya's scripts write it, with alpha for each layer."""
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    tensors = {}
    for name, layers in networks.items():
        for layer, (down, up) in layers.items():
            text = "text_model_" if name != "unet" else ""
            flat = (rename or {}).get(layer, text + layer.replace(".", "_"))
            key = f"{prefixes[name]}_{flat}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def old_file(path, layers):
    """What diffusers wrote for attention processors before it used PEFT."""
    tensors = {}
    for layer, (down, up) in layers.items():
        head, _, last = layer.removesuffix(".0").rpartition(".")
        tensors |= {
            f"unet.{head}.processor.{last}_lora.{side}.weight": each for side, each in (("down", down), ("up", up))
        }
    save_file(tensors, path)
    return path


def added(before, after):
    """What was added to each weight that changed."""
    old = dict(before.named_parameters())
    return {name: (p - old[name]) for name, p in after.named_parameters() if not torch.equal(p, old[name])}


def assert_added(before, after, layers, factor):
    found = added(before, after)
    assert set(found) == {f"{layer}.weight" for layer in layers}
    for layer, (down, up) in layers.items():
        want = factor * (up.flatten(1) @ down.flatten(1)).reshape(found[f"{layer}.weight"].shape)
        torch.testing.assert_close(found[f"{layer}.weight"], want, rtol=1e-4, atol=1e-5)


def merged(checkpoint, name, *loras):
    model = ModelRef(str(checkpoint(name)), loras=tuple(Lora(path=str(path), scale=scale) for path, scale in loras))
    model_id(model, "image")  # a plan finds no fault with it
    return load_image_prior(model)


def test_both_layouts_add_the_formula_to_their_layers_and_to_no_other(checkpoint, prior, tmp_path):
    before = prior("sd")
    networks = {"unet": pairs(before.unet, UNET), "text_encoder": pairs(before.encoders[0].model, TEXT)}
    for file, factor in (
        (diffusers_file(tmp_path / "a.safetensors", networks), 1.0),
        (kohya_file(tmp_path / "b.safetensors", networks), ALPHA / RANK),
    ):
        after = merged(checkpoint, "sd", (file, 0.8))
        assert_added(before.unet, after.unet, networks["unet"], 0.8 * factor)
        assert_added(before.encoders[0].model, after.encoders[0].model, networks["text_encoder"], 0.8 * factor)
        assert not torch.equal(after.encode_prompts(["a mug"]), before.encode_prompts(["a mug"]))


def test_older_names_and_those_of_the_original_checkpoints(checkpoint, prior, tmp_path):
    before = prior("sd")
    layers = pairs(before.unet, UNET[:2])
    assert_added(
        before.unet, merged(checkpoint, "sd", (old_file(tmp_path / "o.safetensors", layers), 1.0)).unet, layers, 1
    )
    comfy = {f"diffusion_model.{layer}.lora_{side}.weight": each for layer, pair in layers.items()
             for side, each in zip("AB", pair, strict=True)}  # fmt: skip
    save_file(comfy, file := tmp_path / "c.safetensors")
    assert_added(before.unet, merged(checkpoint, "sd", (file, 1.0)).unet, layers, 1.0)
    before = prior("sdxl")
    layers, second = pairs(before.unet, UNET), pairs(before.encoders[1].model.text_model, TEXT)
    file = kohya_file(tmp_path / "k.safetensors", {"unet": layers, "text_encoder_2": second}, ORIGINAL)
    after = merged(checkpoint, "sdxl", (file, 0.5))
    assert_added(before.unet, after.unet, layers, 0.5 * ALPHA / RANK)
    texts = (prior.encoders[1].model.text_model for prior in (before, after))
    assert_added(*texts, second, 0.5 * ALPHA / RANK)


def test_several_add_up_and_scale_zero_adds_nothing(checkpoint, prior, tmp_path):
    before = prior("sd")
    one, two = (pairs(before.unet, UNET[:1], seed) for seed in (1, 2))
    files = [diffusers_file(tmp_path / f"{i}.safetensors", {"unet": each}) for i, each in enumerate((one, two))]
    after = merged(checkpoint, "sd", (files[0], 0.5), (files[1], -0.25))
    stacked = {
        UNET[0]: (
            torch.cat([one[UNET[0]][0], two[UNET[0]][0]]),
            torch.cat([one[UNET[0]][1] * 0.5, two[UNET[0]][1] * -0.25], 1),
        )
    }
    assert_added(before.unet, after.unet, stacked, 1.0)
    assert not added(before.unet, merged(checkpoint, "sd", (files[0], 0.0)).unet)


def test_alpha_as_peft_was_told(checkpoint, prior, tmp_path):
    """In the header, as diffusers writes it, with exceptions and rsLoRA; and beside the file, as PEFT does."""
    before = prior("sd")
    layers = pairs(before.unet, UNET[:2])
    told = {"r": RANK, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"attn2.to_out.0": 4}}
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in told.items()})}
    after = merged(checkpoint, "sd", (diffusers_file(tmp_path / "a.safetensors", {"unet": layers}, metadata), 1.0))
    for layer, alpha in zip(layers, (8, 4), strict=True):
        down, up = layers[layer]
        want = alpha / RANK**0.5 * (up @ down)
        torch.testing.assert_close(added(before.unet, after.unet)[f"{layer}.weight"], want, rtol=1e-4, atol=1e-5)
    file = diffusers_file(tmp_path / "adapter_model.safetensors", {"base_model.model": layers})
    with pytest.raises(RequestError, match=r"needs adapter_config\.json beside it"):
        merged(checkpoint, "sd", (file, 1.0))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 5}))
    assert_added(before.unet, merged(checkpoint, "sd", (file, 1.0)).unet, layers, 5 / RANK)


def test_half_precision_weights_are_rounded_once(prior, tmp_path):
    layers = pairs(prior("sd").unet, UNET[:1])
    weight = torch.nn.Linear(*prior("sd").unet.get_submodule(UNET[0]).weight.shape[::-1], bias=False)
    network = torch.nn.ModuleDict({"layer": weight}).half()
    before = weight.weight.detach().clone()
    file = diffusers_file(tmp_path / "h.safetensors", {"unet": {"layer": layers[UNET[0]]}})
    merge(file, 0.01, {"unet": network})
    down, up = layers[UNET[0]]
    assert torch.equal(network["layer"].weight, (before.float() + 0.01 * (up @ down)).half())


@pytest.mark.parametrize("kind, layout", [("sd", "diffusers"), ("sd", "kohya"), ("sdxl", "kohya")])
def test_equal_to_what_diffusers_makes_of_the_same_file(checkpoint, prior, tmp_path, kind, layout):
    pytest.importorskip("peft", reason="diffusers loads LoRAs with peft only")
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

    mixin = StableDiffusionXLLoraLoaderMixin if kind == "sdxl" else StableDiffusionLoraLoaderMixin
    layers = pairs(prior(kind).unet, UNET[:5])
    write = diffusers_file if layout == "diffusers" else kohya_file
    renamed = {"rename": ORIGINAL} if kind == "sdxl" else {}
    file = write(tmp_path / "x.safetensors", {"unet": layers}, **renamed)
    theirs = UNet2DConditionModel.from_pretrained(checkpoint(kind) / "unet")
    state, alphas = mixin.lora_state_dict(str(file), unet_config=theirs.config)
    mixin.load_lora_into_unet(state, alphas, theirs)
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora()
    ours = merged(checkpoint, kind, (file, 0.7)).unet
    for name, want in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], want, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ refused


def test_a_lora_of_another_model_is_refused_before_anything_is_loaded(checkpoint, prior, tmp_path):
    sdxl = pairs(prior("sdxl").unet, UNET[:1])
    bigger = {"unet": {UNET[0]: (torch.zeros(2, 48), torch.zeros(48, 2))}}
    missing = {"unet": {**sdxl, "down_blocks.2.attentions.1.proj_in": (torch.zeros(2, 8), torch.zeros(8, 2))}}
    said = {"ss_base_model_version": "sdxl_base_v1-0"}
    for networks, metadata, message in (
        (
            bigger,
            None,
            rf"unet.{UNET[0]} changes 48 x 48 numbers \(rank 2\), but unet has 32 x 32 there; give the model",
        ),
        (
            missing,
            said,
            r"1 of the 2 layers .* not in unet or text_encoder \(first: unet.down_blocks.2.*words: sdxl_base",
        ),
        ({"text_encoder_2": sdxl}, None, r"1 of the 1 layers .*first: text_encoder_2"),
        ({"transformer": {"blocks.0.attn.to_q": sdxl[UNET[0]]}}, None, r"first: transformer.blocks.0.attn.to_q\)"),
    ):
        file = diffusers_file(tmp_path / "x.safetensors", networks, metadata)
        with pytest.raises(RequestError, match=rf"image_lora: {file} was made for another model: .*{message}"):
            model_id(ModelRef(str(checkpoint("sd")), loras=(Lora(path=str(file)),)), "image")


def test_what_is_no_lora_is_called_what_it_is(checkpoint, tmp_path):
    sd = checkpoint("sd")
    dora = {
        "unet.x.lora_A.weight": torch.zeros(1, 2),
        "unet.x.lora_B.weight": torch.zeros(2, 1),
        "unet.x.dora_scale": torch.zeros(2),
    }
    half = {"unet.x.lora_A.weight": torch.zeros(1, 2)}
    loha = {"lora_unet_x.hada_w1_a": torch.zeros(1, 2)}
    for tensors, message in (
        (
            sd / "unet" / "diffusion_pytorch_model.safetensors",
            r"is not a LoRA but a U-Net \(first tensors: add_em|conv_in",
        ),
        (sd / "vae" / "diffusion_pytorch_model.safetensors", r"is not a LoRA but an autoencoder \(VAE\)"),
        (sd / "text_encoder" / "model.safetensors", "is not a LoRA but a text encoder"),
        (loha, "is not a LoRA but a LyCORIS file"),
        (dora, r"holds 1 tensors that are no part of a LoRA \(first: unet.x.dora_scale\); DoRA"),
        (half, r"holds one half of 1 pairs \(first: unet.x\)"),
    ):
        file = tensors
        if isinstance(tensors, dict):
            save_file(tensors, file := tmp_path / "x.safetensors")
        with pytest.raises(RequestError, match=message):
            model_id(ModelRef(str(sd), loras=(Lora(path=str(file)),)), "image")
    (tmp_path / "y.safetensors").write_bytes(b"PK\3\4 pickled")
    with pytest.raises(ModelNotFound, match=r"y.safetensors is cut short or is not a safetensors file"):
        model_id(ModelRef(str(sd), loras=(Lora(path=str(tmp_path / "y.safetensors")),)), "image")
