"""Tiny random checkpoints in the very formats that are published: written by diffusers and transformers themselves
where they have the class, and under the published names and shapes where they have not."""

import json
from itertools import pairwise

import torch
from safetensors.torch import load_file, save_file

from tests.pipeline_core.priors.qwen_checkpoints import write_flux2, write_z_image

WORDS = ["a", "red", "blue", "mushroom", "mug", "front", "view", "."]
TEXT_WIDTH = 32
LATENT_SIZE = 8


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_clip_tokenizer(folder, length=16):
    """vocab.json and merges.txt, as Stable Diffusion's folders have them: every word spelt in letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["."]
    symbols = letters + [c + "</w>" for c in letters]
    vocab = {symbol: i for i, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": "<|endoftext|>"})
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": "<|endoftext|>", **special}
    write_json(folder / "tokenizer_config.json", config)
    return vocab


def use_published_text_keys(path):
    """Rename to ``text_model.*`` and add the position ids, as every file written before transformers 5 has them."""
    tensors = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(path).items()}
    positions = len(tensors["text_model.embeddings.position_embedding.weight"])
    tensors["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    save_file(tensors, path, metadata={"format": "pt"})


def clip_config(vocab, length=16, width=TEXT_WIDTH, projection=TEXT_WIDTH):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=projection,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )


def write_scheduler(folder, prediction_type="epsilon", **more):
    config = {
        "_class_name": "PNDMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "prediction_type": prediction_type,
    }
    write_json(folder / "scheduler" / "scheduler_config.json", {**config, **more})


def write_unet(folder, **more):
    from diffusers import UNet2DConditionModel

    arguments = {
        "sample_size": LATENT_SIZE,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    UNet2DConditionModel(**{**arguments, **more}).save_pretrained(folder / "unet")


def write_vae(folder):
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=2 * LATENT_SIZE,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")


def write_tiny_encoder(folder, latent_channels=4):
    """The layout of madebyollin/taesd and taesdxl, which halve once as the tiny autoencoders here do."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(8)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=latent_channels,
    ).save_pretrained(folder)
    return folder


def write_index(folder, class_name, **parts):
    base = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
    }
    write_json(folder / "model_index.json", {"_class_name": class_name, **base, **parts})


def write_stable_diffusion(folder, prediction_type="epsilon", length=16, **unet):
    """The layout of SD 1.5 and 2.1; ``length`` of the text window, 77 in the published ones."""
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    vocab = write_clip_tokenizer(folder / "tokenizer", length)
    CLIPTextModel(clip_config(vocab, length)).save_pretrained(folder / "text_encoder")
    use_published_text_keys(folder / "text_encoder" / "model.safetensors")
    write_unet(folder, **unet)
    write_vae(folder)
    write_scheduler(folder, prediction_type)
    write_index(folder, "StableDiffusionPipeline", vae=["diffusers", "AutoencoderKL"])
    return folder


def write_distilled(folder):
    """The same, of which guidance from 1 to 12 was distilled into the U-Net: it is told the scale as latent consistency
    models are."""
    write_stable_diffusion(folder, time_cond_proj_dim=32)
    write_json(folder / "splatmill.json", {"guidance_scales": [1, 12]})
    return folder


SSD_1B = {
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
VEGA = {
    "transformer_layers_per_block": [1, [1, 1], [2, 2]],
    "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
}
"""Depths of the attention of SDXL's distilled kin, layer by layer: another one on the way up."""
PRUNED = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "use_linear_projection": True,
}
"""What both have: a middle without attention, of a single residual block."""


def write_sdxl(folder, length=16, **unet):
    """Two text encoders, a pooled vector wider than the token width, time ids."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    vocab = write_clip_tokenizer(folder / "tokenizer", length)
    write_clip_tokenizer(folder / "tokenizer_2", length)
    CLIPTextModel(clip_config(vocab, length)).save_pretrained(folder / "text_encoder")
    second = clip_config(vocab, length, width=16, projection=80)
    CLIPTextModelWithProjection(second).save_pretrained(folder / "text_encoder_2")
    write_unet(
        folder,
        cross_attention_dim=TEXT_WIDTH + 16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80 + 6 * 8,
        **unet,
    )
    write_vae(folder)
    vae = json.loads((folder / "vae" / "config.json").read_text())
    write_json(folder / "vae" / "config.json", {**vae, "force_upcast": True, "scaling_factor": 0.13025})
    write_scheduler(folder)
    write_index(
        folder,
        "StableDiffusionXLPipeline",
        vae=["diffusers", "AutoencoderKL"],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
        force_zeros_for_empty_prompt=True,
    )
    return folder


def write_word_tokenizer(folder, special, template, length):
    """tokenizer.json as T5's and Gemma's folders have it, with whole words as tokens. Returns its vocabulary."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate([*special, *WORDS])}
    raw = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()
    used = [name for name in special if name in template]
    raw.post_processor = TemplateProcessing(single=template, special_tokens=[(name, vocab[name]) for name in used])
    names = {
        "<pad>": "pad_token",
        "<bos>": "bos_token",
        "</s>": "eos_token",
        "<eos>": "eos_token",
        "<unk>": "unk_token",
    }
    roles = {names[name]: name for name in special}
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=length, **roles).save_pretrained(folder)
    return vocab


def write_pixel(folder):
    """The layout of DeepFloyd IF: no vae, T5, a learned variance beside the noise, text added to the time embedding."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    vocab = write_word_tokenizer(folder / "tokenizer", ["<pad>", "</s>", "<unk>"], "$A </s>", 512)
    config = T5Config(vocab_size=len(vocab), d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    write_unet(
        folder,
        in_channels=3,
        out_channels=6,
        encoder_hid_dim=24,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )
    write_scheduler(
        folder, beta_schedule="squaredcos_cap_v2", _class_name="DDPMScheduler", variance_type="learned_range"
    )
    write_index(folder, "IFPipeline", text_encoder=["transformers", "T5EncoderModel"])
    return folder


def write_sd3(folder, t5=True, **transformer):
    """The layout of SD 3.5: two CLIPs with projections, T5 or none, 16 channels with a shift, a patch of 2."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel

    torch.manual_seed(8)
    vocab = write_clip_tokenizer(folder / "tokenizer")
    clip = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    t5_tokenizer = None
    if t5:
        write_word_tokenizer(folder / "tokenizer_3", ["<pad>", "</s>", "<unk>"], "$A </s>", 512)
        t5_tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer_3")
    arguments = {
        "sample_size": LATENT_SIZE,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32 + 80,
        "out_channels": 16,
        "pos_embed_max_size": 12,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=2 * LATENT_SIZE,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    t5_config = T5Config(vocab_size=16, d_model=64, d_kv=12, d_ff=32, num_layers=2, num_heads=2)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**{**arguments, **transformer}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(clip_config(vocab)),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(vocab, width=16, projection=80)),
        tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(t5_config) if t5 else None,
        tokenizer_3=t5_tokenizer,
    ).save_pretrained(folder)
    return folder


def write_sana(folder):
    """The layout of Sana: Gemma, 32 pixels a latent, a solver with flow sigmas."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import AutoTokenizer, Gemma2Config, Gemma2Model

    torch.manual_seed(9)
    vocab = write_word_tokenizer(folder / "tokenizer", ["<pad>", "<eos>", "<bos>", "<unk>"], "<bos> $A", 4096)
    gemma = Gemma2Config(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=vocab["<pad>"],
        bos_token_id=vocab["<bos>"],
        eos_token_id=vocab["<eos>"],
    )
    vae = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 5 + ((5,),),
        decoder_qkv_multiscales=((),) * 5 + ((5,),),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=4,
    )
    SanaPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=Gemma2Model(gemma),
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    ).save_pretrained(folder)
    return folder


MVDREAM_CONFIG = {
    "_class_name": "MultiViewUNetModel",
    "image_size": LATENT_SIZE,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 16,
    "transformer_depth": 1,
    "context_dim": TEXT_WIDTH,
    "camera_dim": 16,
    "use_checkpoint": False,
}


def write_mvdream(folder, length=16):
    """The layout of the published four-view folders, with the U-Net's class in remote code that must not be run."""
    from pipeline_core.priors.multiview import MultiViewUNet

    write_stable_diffusion(folder, length=length)
    torch.manual_seed(3)
    for path in (folder / "unet").iterdir():
        path.unlink()
    write_json(folder / "unet" / "config.json", MVDREAM_CONFIG)
    save_file(MultiViewUNet(MVDREAM_CONFIG).state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "mv_unet.py").write_text("raise RuntimeError('remote code was run')\n")
    write_index(folder, "MVDreamPipeline", vae=["diffusers", "AutoencoderKL"], unet=["mv_unet", "MultiViewUNetModel"])
    return folder


def write_zero123(folder, community=False):
    """The layouts of ashawkey/zero123-xl-diffusers, and of diffusers' community pipeline (kxic/zero123-xl)."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(8)
    write_unet(folder, in_channels=8)
    write_vae(folder)
    write_scheduler(folder, _class_name="DDIMScheduler")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=TEXT_WIDTH,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    write_json(folder / "feature_extractor" / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28}, "resample": 3, "do_resize": True, "do_center_crop": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    })  # fmt: skip
    name, layer = ("cc_projection", "projection") if community else ("clip_camera_projection", "proj")
    own = ["pipeline_zero1to3", "CCProjection"] if community else ["zero123", "CLIPCameraProjection"]
    linear = torch.nn.Linear(TEXT_WIDTH + 4, TEXT_WIDTH)
    write_json(folder / name / "config.json", {"_class_name": own[1]})
    tensors = {f"{layer}.{part}": value.detach() for part, value in linear.state_dict().items()}
    save_file(tensors, folder / name / "diffusion_pytorch_model.safetensors")
    index = {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"], "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"], "safety_checker": [None, None], name: own,
    }  # fmt: skip
    pipeline = "Zero1to3StableDiffusionPipeline" if community else "Zero123Pipeline"
    write_json(folder / "model_index.json", {"_class_name": pipeline, **index})
    return folder


def write_starter_image(folder):
    """The starter's layout: camera as class labels, linear autoencoder, splatmill.json."""
    from transformers import CLIPTextModel

    from pipeline_core.priors.patch_autoencoder import fit_patch_autoencoder

    torch.manual_seed(4)
    vocab = write_clip_tokenizer(folder / "tokenizer")
    CLIPTextModel(clip_config(vocab)).save_pretrained(folder / "text_encoder")
    write_unet(folder, class_embed_type="projection", projection_class_embeddings_input_dim=8)
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    fit_patch_autoencoder(images, patch=2, channels=4).save_pretrained(folder / "vae")
    write_scheduler(folder, "v_prediction")
    write_index(folder, "StableDiffusionPipeline", vae=["splatmill", "PatchAutoencoder"])
    write_json(folder / "splatmill.json", {"background": [1, 1, 1], "camera": "angles", "size": 16})
    return folder


def write_clip(folder):
    """A whole CLIPModel, as the hub has ViT-L/14: text and vision towers in one file."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    torch.manual_seed(5)
    vocab = write_clip_tokenizer(folder)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = clip_config(vocab, projection=24)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    ).save_pretrained(folder)
    return folder


def write_predictor(folder, widths=(), name="AestheticsPredictorV1", bias=0.0):
    """An aesthetic predictor as the hub has them: a CLIP of pictures and a head; returns the weights of that."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(6)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=12,
        )
    ).save_pretrained(folder)  # fmt: skip
    sizes, relu = [12, *widths, 1], "ReLU" in name
    weights = [torch.randn(n, m) for m, n in pairwise(sizes)]
    last = len(weights) - 1
    places = [f"layers.{(3 if relu else 2) * i - (i == last)}" for i in range(last + 1)] if widths else ["predictor"]
    head = {f"{place}.weight": weight for place, weight in zip(places, weights)}
    head |= {f"{place}.bias": torch.full((len(weight),), bias) for place, weight in zip(places, weights)}
    save_file(load_file(folder / "model.safetensors") | head, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"architectures": [name]})
    return weights


def write_point_e(folder, suffix=".safetensors"):
    """Narrow Point-E networks under the published file and parameter names, with non-zero outputs."""
    from pipeline_core.priors.point_e import PointEBase, PointEUpsampler

    torch.manual_seed(6)
    folder.mkdir(parents=True, exist_ok=True)
    networks = {"base_40m_textvec": PointEBase(64, 2, 24), "upsample_40m": PointEUpsampler(64, 2, 40)}
    for name, network in networks.items():
        if suffix == ".pt":
            torch.save(network.state_dict(), folder / f"{name}.pt")
        else:
            save_file(network.state_dict(), folder / f"{name}.safetensors")
    write_clip(folder / "clip")
    return folder


def write_shap_e(folder):
    """Shap-E as diffusers publishes it, of the sizes of diffusers' own tests; its field has an inside and outside."""
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
    from diffusers.pipelines.shap_e import ShapERenderer
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(8)
    vocab = write_clip_tokenizer(folder / "tokenizer")
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, embedding_dim=16, num_embeddings=32, embedding_proj_dim=16,
        time_embed_dim=64, num_layers=1, clip_embed_dim=32, additional_embeddings=0, time_embed_act_fn="gelu",
        norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
    )  # fmt: skip
    renderer = ShapERenderer(param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12)
    with torch.no_grad():
        renderer.mlp.mlp[-1].weight[0] *= 8
        renderer.mlp.mlp[-1].bias[0] = 0.2
    ShapEPipeline(
        prior=prior,
        text_encoder=CLIPTextModelWithProjection(clip_config(vocab, projection=16)),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=HeunDiscreteScheduler(
            beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True,
            clip_sample=True, clip_sample_range=1.0,
        ),
        shap_e_renderer=renderer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_starter_points(folder):
    from pipeline_core.priors.independent_points import IndependentPointDiffusion

    torch.manual_seed(7)
    vocab = write_clip_tokenizer(folder / "tokenizer")
    model = IndependentPointDiffusion(
        vocab_size=len(vocab),
        width=32,
        depth=2,
        text_width=32,
        tokens=16,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
        num_points=64,
    )
    torch.nn.init.normal_(model.out.weight, std=0.1)  # it starts at zero, which would make every prediction trivial
    model.save_pretrained(folder)
    return folder


WRITERS = {
    "sd": write_stable_diffusion,
    "sd-v": lambda folder: write_stable_diffusion(folder, "v_prediction"),
    "sd-sample": lambda folder: write_stable_diffusion(folder, "sample"),
    "sd-77": lambda folder: write_stable_diffusion(folder, length=77),
    "sd-distilled": write_distilled,
    "sdxl": write_sdxl,
    "sdxl-77": lambda folder: write_sdxl(folder, length=77),
    "ssd-1b": lambda folder: write_sdxl(folder, block_out_channels=(8, 16, 16), **PRUNED, **SSD_1B),
    "vega": lambda folder: write_sdxl(folder, block_out_channels=(8, 16, 16), **PRUNED, **VEGA),
    "pixel": write_pixel,
    "sd3": write_sd3,
    "sd3-without-t5": lambda folder: write_sd3(folder, t5=False),
    "sana": write_sana,
    "flux2": write_flux2,
    "z-image": write_z_image,
    "mvdream": write_mvdream,
    "mvdream-77": lambda folder: write_mvdream(folder, length=77),
    "starter-image": write_starter_image,
    "zero123-xl": write_zero123,
    "zero1to3-community": lambda folder: write_zero123(folder, community=True),
    "stable-zero123": write_zero123,
    "taesd": write_tiny_encoder,
    "taesdxl": write_tiny_encoder,
    "taesd3": lambda folder: write_tiny_encoder(folder, 16),
    "clip": write_clip,
    "point-e": write_point_e,
    "shap-e": write_shap_e,
    "point-e-pt": lambda folder: write_point_e(folder, ".pt"),
    "starter-points": write_starter_points,
}
