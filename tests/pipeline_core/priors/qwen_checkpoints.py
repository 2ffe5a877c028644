"""Tiny random FLUX.2-klein and Z-Image folders, written by their own pipelines."""

import itertools
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
"""What Qwen3's own makes of one message."""
WIDTH = 16


def qwen(kind, layers: int, width: int = WIDTH):
    """A tokenizer of letters, and a network of that class."""
    import transformers

    vocab = {symbol: i for i, symbol in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL])}
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocab, merges=[], model_max_length=131072, additional_special_tokens=SPECIAL[1:]
    )
    tokenizer.chat_template = TEMPLATE
    config = transformers.Qwen3Config(
        vocab_size=len(vocab), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    return tokenizer, getattr(transformers, kind)(config).eval()


def vae(kind, channels: int, **more):
    """Two pixels a code, pictures of 16."""
    import diffusers

    return getattr(diffusers, kind)(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=8, sample_size=16, **more,
    )  # fmt: skip


def write_flux2(folder: Path) -> Path:
    """klein's base: no guidance embedding, three layers of Qwen3, statistics of packed latents in the autoencoder."""
    import diffusers

    torch.manual_seed(8)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )  # fmt: skip
    autoencoder = vae("AutoencoderKLFlux2", 4)
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    tokenizer, text_encoder = qwen("Qwen3ForCausalLM", 28)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, time_shift_type="exponential"
    )
    diffusers.Flux2KleinPipeline(scheduler, autoencoder, text_encoder, tokenizer, transformer).save_pretrained(folder)
    return folder


def write_z_image(folder: Path) -> Path:
    """A shift of 6, an autoencoder with a shift; pad tokens that are not zero, as trained ones are not."""
    import diffusers

    torch.manual_seed(9)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)
    autoencoder = vae("AutoencoderKL", 4, scaling_factor=0.3611, shift_factor=0.1159)
    tokenizer, text_encoder = qwen("Qwen3Model", 3)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0, use_dynamic_shifting=False)
    diffusers.ZImagePipeline(scheduler, autoencoder, text_encoder, tokenizer, transformer).save_pretrained(folder)
    return folder


def euler(prior, sigmas, x, prompt: str, scale: float):
    """Latents that guided steps through ``sigmas`` make of ``x`` [1, C, h, w]."""
    embeddings, shift = prior.encode_prompts([prompt, ""]), prior.process.shift
    shares = sigmas / (shift - (shift - 1) * sigmas)
    for now, then in itertools.pairwise(shares.reshape(-1, 1)):
        conditional, unconditional = prior.predict(x.repeat(2, 1, 1, 1), now.repeat(2), embeddings)
        x = prior.step(x, (unconditional + scale * (conditional - unconditional))[None], now, then)
    return x
