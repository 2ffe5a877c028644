"""Priors whose optimum is known in closed form, so that a distillation can be told right from wrong.

The image prior believes that the only picture of a camera is the render of one target asset. The exact denoiser of
such a point mass is eps = (x_t - sqrt(a) x_target) / sqrt(1 - a), so score distillation must reproduce the target.
"""

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Densify, Distill, Init, LearningRates
from pipeline_core.engine.gaussian_job import render
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.priors.process import Diffusion, OwnsNoise, RectifiedFlow
from pipeline_core.types import PointCloud
from tests.gaussian_toy import network_says

SIZE, FOVY = 24, 40.0
WHITE = (1.0, 1.0, 1.0)


def cosine_alphas(steps=100):
    t = (torch.arange(steps) + 0.5) / steps
    return ((t + 0.008) / 1.008 * torch.pi / 2).cos().square().clamp(1e-4, 0.9999)


class ExactImagePrior(OwnsNoise):
    """The image prior's interface, in pixel space; ``targets`` maps a prompt to Gaussians, '' is a grey picture."""

    size = latent_size = SIZE
    latent_channels, dtype = 3, torch.float32
    background, camera, model_id = WHITE, "angles", "exact"

    def __init__(self, targets, process):
        super().__init__(process)
        self.names = ["", *targets]
        self.targets = targets
        self.calls, self.rows = 0, []
        self.poison = None

    def encode_prompts(self, prompts):
        return torch.tensor([[[float(self.names.index(p))]] for p in prompts])

    def encode(self, images, generator=None):
        return images * 2 - 1

    def decode(self, latents):
        return (latents / 2 + 0.5).clamp(0, 1)

    def picture(self, name, azimuth, elevation):
        if not name:
            return torch.full((3, SIZE, SIZE), 0.5)
        cameras = orbit(azimuth.reshape(1), elevation.reshape(1), size=SIZE, fovy=FOVY)
        return render(self.targets[name].tensors(), cameras, torch.ones(1, 3))[0][0].permute(2, 0, 1)

    def predict(self, x_t, t, embeddings, cameras=None):
        self.calls += 1
        self.rows.append(len(x_t))
        names = [self.names[int(e)] for e in embeddings[:, 0, 0]]
        pictures = torch.stack([self.picture(n, az, el) for n, az, el in zip(names, *cameras, strict=True)]) * 2 - 1
        answer = network_says(self.process, pictures, self.noise_of(x_t, pictures, t), t)
        if self.poison is not None:
            answer[[n == self.poison for n in names]] = torch.nan
        return answer


class ExactPointPrior(OwnsNoise):
    """The point prior's interface; believes in one cloud [6, N], whose order it knows."""

    model_id = "exact points"

    def __init__(self, cloud):
        super().__init__(Diffusion(cosine_alphas()))
        self.cloud, self.num_points = cloud, cloud.shape[1]

    def encode_prompts(self, prompts):
        return torch.zeros(len(prompts), 1)

    def encode_object(self, prompt, xyz, rgb):
        return self.encode_prompts([prompt, ""])

    def to_model(self, xyz, rgb):
        return torch.cat([2 * xyz, 2 * rgb - 1], dim=-1).transpose(0, 1)

    def predict(self, x_t, t, condition):
        return self.noise_of(x_t, self.cloud, t)

    def sample(self, prompts, generators, **settings):
        xyz, rgb = self.cloud.T.split(3, dim=1)
        return [PointCloud(xyz / 2, (rgb + 1) / 2) for _ in prompts]


def blob(seed, colour, stretch=(0.5, 0.3, 0.4), count=60):
    generator = np.random.default_rng(seed)
    xyz = generator.normal(size=(count, 3))
    xyz = xyz / np.linalg.norm(xyz, axis=1, keepdims=True) * np.array(stretch)
    rgb = np.tile(np.array(colour), (count, 1))
    return PointCloud(torch.from_numpy(xyz).float(), torch.from_numpy(rgb).float())


def gaussians(seed, colour, stretch=(0.5, 0.3, 0.4), count=60):
    return from_points(blob(seed, colour, stretch, count), Init(num_points=64), torch.Generator().manual_seed(seed))


@pytest.fixture
def make_gaussians():
    return gaussians


PROCESSES = {"diffusion": Diffusion(cosine_alphas()), "flow": RectifiedFlow(shift=3.0)}


@pytest.fixture
def exact_prior(request):
    """Prompts 'red', 'blue', ... for assets that differ in colour and shape from the grey ball a job starts with.
    A test's parameter may name one of PROCESSES."""
    return ExactImagePrior(
        {
            "red": gaussians(1, (0.9, 0.1, 0.1)),
            "blue": gaussians(2, (0.1, 0.2, 0.9), (0.3, 0.5, 0.3)),
            "green": gaussians(3, (0.1, 0.8, 0.2), (0.4, 0.4, 0.2)),
        },
        PROCESSES[getattr(request, "param", "diffusion")],
    )


@pytest.fixture
def exact_points():
    return ExactPointPrior


@pytest.fixture
def stage():
    """A short stage whose guidance is the prior itself."""

    def make(**values):
        lr = {
            "means": 0.01,
            "means_final": 0.002,
            "sh0": 0.05,
            "opacities": 0.05,
            "scales": 0.02,
            "scales_final": 0.005,
        }
        densify = {"every": 0} | values.pop("densify", {})
        defaults = {
            "steps": 40, "views": 2, "resolution": ((1.0, SIZE),), "fovy": FOVY, "guidance_scale": 1.0,
            "weighting": "x0",
            "t_max": (0.8, 0.2), "t_min": (0.2, 0.05), "elevation": (-20.0, 40.0),
        }  # fmt: skip
        return Distill(**(defaults | values), lr=LearningRates(**lr), densify=Densify(**densify))

    return make
