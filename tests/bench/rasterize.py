"""How fast the CPU rasterizer is: against its arithmetic floor, torch renderers, and other projects' CPU rasterizers.

    python tests/bench/rasterize.py [--sizes 1000@64,20000@256] [--torch-splatting DIR] [--opensplat DIR]

Every time is CPU time of the calling thread (wall time only where two threads are compared), the median of rounds in
which all contestants take turns, for four views, forward and backward, RGB and alpha and depth; where other projects
run, each turn begins with a call that is not timed, because what ran before has filled the caches. Other projects are
run from checkouts given by path; the part of ours that is compared with OpenSplat has depth although theirs has none.

The floor is what the inner loops cannot go below: pairs of a Gaussian and an 8 x 1 block of pixels in which some alpha
reaches 1/255, times 8 pixels, times 30 flop forward and 50 backward, over the multiply-add rate of one core measured
in the same rounds (ten independent chains of fused multiply-adds, nothing else: 32 flop a cycle on a core with AVX2 or
with AVX-512 in two halves). It counts no list, no memory and no bookkeeping. ``floor_ratio`` is the time of the two
blending kernels over it; ``floor_ratio_with_lists`` adds the kernels that find out which blocks a Gaussian reaches.

The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("SPLATMILL_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numba
import numpy as np
import torch
from torch import Tensor

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.rendering import blend, cpu, projection, reference, tiles
from pipeline_core.rendering.lanes import fma, load, store
from pipeline_core.rendering.rasterize import rasterize
from pipeline_core.rendering.tiles import TILE_X, TILE_Y

FLOP_FORWARD, FLOP_BACKWARD = 30, 50
SIZES = "1000@64,1000@128,1000@256,1000@512,5000@64,5000@128,5000@256,5000@512,20000@64,20000@128,20000@256,20000@512"
SIZES += ",100000@64,100000@128,100000@256,100000@512"

FIRST_CALL = """
import resource, time, torch
from pipeline_core.rendering.warmup import warmup
cpu = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
wall, used = time.perf_counter(), cpu()
warmup()
print(cpu() - used, time.perf_counter() - wall)
"""

OPENSPLAT = """
#include <torch/extension.h>
#include "bindings.h"
typedef torch::Tensor Tensor;
std::vector<Tensor> blend(int w, int h, Tensor xys, Tensor conics, Tensor colors, Tensor opacities, Tensor background,
                          Tensor cov2d, Tensor depths, Tensor v_out, Tensor v_alpha) {
  auto f = rasterize_forward_tensor_cpu(w, h, xys, conics, colors, opacities, background, cov2d, depths);
  auto g = rasterize_backward_tensor_cpu(h, w, xys, conics, colors, opacities, background, cov2d, depths,
                                         std::get<1>(f), std::get<2>(f), v_out, v_alpha);
  delete[] std::get<2>(f);
  return {std::get<0>(f), std::get<0>(g), std::get<1>(g), std::get<2>(g), std::get<3>(g)};
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("blend", &blend); }
"""


def scene(n: int) -> dict[str, Tensor]:
    """75 % on a bumpy shell, 25 % inside; flattened, anisotropic, a third of the image covered."""
    g = torch.Generator().manual_seed(0)
    shell = n * 3 // 4
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1)
    bumps = 0.55 + 0.05 * torch.sin(6 * d[:shell, 0]) * torch.cos(5 * d[:shell, 1])
    radius = torch.cat([bumps, 0.5 * torch.rand(n - shell, generator=g) ** (1 / 3)])
    scales = 0.6 * math.sqrt(4 * math.pi * 0.55**2 / n) * torch.exp(0.3 * torch.randn(n, 3, generator=g))
    scales[torch.arange(n), torch.randint(0, 3, (n,), generator=g)] *= 0.3
    opacities = torch.sigmoid(0.3 + 1.5 * torch.randn(n, generator=g))
    parameters = {"means": d * radius[:, None], "quats": torch.randn(n, 4, generator=g), "scales": scales}
    parameters |= {"opacities": opacities, "colors": torch.rand(n, 3, generator=g)}
    return {k: v.requires_grad_() for k, v in parameters.items()}


def views(size: int) -> Cameras:
    return orbit(torch.tensor([0.0, 90, 180, 270]), torch.tensor([15.0]), size=size)


def camera(c: Cameras) -> dict[str, object]:
    return {"viewmats": c.viewmats, "Ks": c.Ks, "width": c.width, "height": c.height}


def ours(
    parameters: dict[str, Tensor], c: Cameras, clock: Callable[[], float] = time.thread_time
) -> tuple[float, float]:
    """Seconds forward and backward."""
    for p in parameters.values():
        p.grad = None
    began = clock()
    image, alphas, _ = rasterize(**parameters, **camera(c), render_mode="RGB+D")
    forward = clock() - began
    grads = [torch.ones_like(image), torch.ones_like(alphas)]
    began = clock()
    torch.autograd.backward([image, alphas], grads)
    return forward, clock() - began


def stages() -> tuple[dict[str, float], Callable[[], None]]:
    """Seconds of CPU time by kernel, counted from now on; and how to stop."""
    spent: dict[str, float] = {}
    restore = []
    for module, names in (
        (projection, ("project_forward", "project_backward", "depth_order")),
        (tiles, ("find_pairs", "fill_lists")),
        (blend, ("paint", "blend_forward", "blend_backward", "reduce_sums")),
    ):
        for name in names:
            kernel = getattr(module, name)

            def timed(*arguments, kernel=kernel, name=name):
                began = time.thread_time()
                out = kernel(*arguments)
                spent[name] = spent.get(name, 0.0) + time.thread_time() - began
                return out

            setattr(module, name, timed)
            restore.append((module, name, kernel))
    return spent, lambda: [setattr(*r) for r in restore] and None


@numba.njit
def _chains(x, rounds):
    a, b, c, d, e = load(x, 0), load(x, 16), load(x, 32), load(x, 48), load(x, 64)
    f, g, h, i, j = load(x, 80), load(x, 96), load(x, 112), load(x, 128), load(x, 144)
    m, n = load(x, 160), load(x, 176)
    for _ in range(rounds):
        a, b, c, d, e = fma(a, m, n), fma(b, m, n), fma(c, m, n), fma(d, m, n), fma(e, m, n)
        f, g, h, i, j = fma(f, m, n), fma(g, m, n), fma(h, m, n), fma(i, m, n), fma(j, m, n)
    store(x, 0, a + b + c + d + e + f + g + h + i + j)


def peak() -> float:
    """Multiply-add rate of one core in flop/s: ten independent chains of sixteen lanes."""
    x, rounds = np.full(192, 0.5, dtype=np.float32), 100_000
    began = time.thread_time()
    _chains(x, rounds)
    return rounds * 10 * 16 * 2 / (time.thread_time() - began)


@numba.njit
def _count(records, members, starts, tiles_x, tiles_y, width, height):
    """Pixels and 8 x 1 blocks that Gaussians reach before the pixel is finished."""
    pixels, blocks = 0, 0
    for tile in range(len(starts) - 1):
        x0, y0 = tile % tiles_x * TILE_X, tile // tiles_x % tiles_y * TILE_Y
        T = np.ones((TILE_Y, TILE_X))
        for j in range(starts[tile], starts[tile + 1]):
            r = records[members[j]]
            for y in range(min(TILE_Y, height - y0)):
                for eighth in range(0, TILE_X, 8):
                    hit = 0
                    for x in range(eighth, min(eighth + 8, width - x0)):
                        dx, dy = x0 + x + 0.5 - r[0], y0 + y + 0.5 - r[1]
                        t = r[6] - (dx * r[2]) ** 2 - (dx * r[3] + dy * r[4]) ** 2
                        if t >= 0 and T[y, x] > 0:
                            hit += 1
                            after = T[y, x] * (1 - min(2.0**t / 255, 0.999))
                            T[y, x] = after if after > 1e-4 else 0.0
                    pixels += hit
                    blocks += hit > 0
    return pixels, blocks


def work(parameters: dict[str, Tensor], c: Cameras) -> dict[str, int]:
    """What has to be blended: tile pairs, pixels reached, 8 x 1 blocks reached."""
    seen = {}
    listing = cpu._list_tiles

    def spy(records, *rest):
        seen["records"], seen["lists"], seen["tiles"] = records, listing(records, *rest), rest[-2:]
        return seen["lists"]

    cpu._list_tiles = spy
    try:
        with torch.no_grad():
            rasterize(**parameters, **camera(c))
    finally:
        cpu._list_tiles = listing
    lists = seen["lists"]
    pixels, blocks = _count(seen["records"], lists["members"], lists["starts"], *seen["tiles"], c.width, c.height)
    return {"tile_pairs": len(lists["members"]), "pixels": pixels, "blocks_8x1": blocks}


def projected(parameters: dict[str, Tensor], c: Cameras, v: int) -> tuple[Tensor, Tensor, Tensor]:
    p = parameters
    return reference.project(p["means"], p["quats"], p["scales"], c.viewmats[v], c.Ks[v], c.width, c.height, 0.3)


def torch_dense(parameters: dict[str, Tensor], c: Cameras) -> None:
    """The reference, every pixel against every Gaussian."""
    image, alphas, _ = rasterize(**parameters, **camera(c), render_mode="RGB+D", backend="reference")
    (image.sum() + alphas.sum()).backward()


def torch_tiles(parameters: dict[str, Tensor], c: Cameras, tile: int = 16) -> None:
    """A tile renderer in torch: per tile, the reference's blend of the Gaussians whose box touches it."""
    for v in range(len(c)):
        means2d, depths, covars2d = projected(parameters, c, v)
        inverse = torch.linalg.inv(covars2d)
        conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
        order = torch.argsort(depths.detach())
        with torch.no_grad():
            reach = 3.33 * covars2d.diagonal(dim1=-2, dim2=-1).sqrt()
            low, high = (means2d - reach)[order], (means2d + reach)[order]
        features = torch.cat([parameters["colors"], depths[:, None]], -1)
        loss = means2d.sum() * 0
        for y in range(0, c.height, tile):
            for x in range(0, c.width, tile):
                near = (low[:, 0] < x + tile) & (high[:, 0] > x) & (low[:, 1] < y + tile) & (high[:, 1] > y)
                k = order[near]
                if len(k) == 0:
                    continue
                py, px = torch.meshgrid(torch.arange(y, y + tile), torch.arange(x, x + tile), indexing="ij")
                pixels = torch.stack([px, py], -1).reshape(-1, 2) + 0.5
                image, T = reference.composite(means2d[k], conics[k], parameters["opacities"][k], features[k], pixels)
                loss = loss + image.sum() + (1 - T).sum()
        loss.backward()


def torch_splatting(checkout: Path) -> Callable[[dict[str, Tensor], Cameras], None]:
    """The render() of hbb1/torch-splatting from ``checkout``, moved to the CPU, behind our projection."""
    source = (checkout / "gaussian_splatting" / "gauss_render.py").read_text()
    unused = ("import pdb", "from einops", "from .utils")
    source = "\n".join(line for line in source.splitlines() if not line.startswith(unused))
    module = types.ModuleType("torch_splatting")
    exec(
        compile(source.replace("'cuda'", "'cpu'").replace('"cuda"', '"cpu"'), "gauss_render.py", "exec"),
        module.__dict__,
    )

    def run(parameters: dict[str, Tensor], c: Cameras) -> None:
        renderer = module.GaussRenderer()
        grid = torch.meshgrid(torch.arange(c.width), torch.arange(c.height), indexing="xy")
        renderer.pix_coord = torch.stack(grid, -1)
        camera = types.SimpleNamespace(image_width=c.width, image_height=c.height)
        for v in range(len(c)):
            means2d, depths, covars2d = projected(parameters, c, v)
            opacity = parameters["opacities"][:, None]
            out = renderer.render(camera, means2d - 0.5, covars2d, parameters["colors"], opacity, depths)
            (out["render"].sum() + out["alpha"].sum() + out["depth"].sum()).backward()

    return run


def opensplat(checkout: Path) -> Callable[[dict[str, Tensor], Cameras], None]:
    """The CPU rasterizer of pierotofy/OpenSplat compiled from ``checkout``, behind our torch projection."""
    from torch.utils.cpp_extension import load as compile_extension

    folder = checkout / "rasterizer" / "gsplat-cpu"
    build = Path(tempfile.gettempdir()) / f"splatmill-bench-opensplat-{os.getuid()}"
    build.mkdir(mode=0o700, exist_ok=True)
    (build / "glue.cpp").write_text(OPENSPLAT)
    module = compile_extension(
        "opensplat_cpu", [str(build / "glue.cpp"), str(folder / "gsplat_cpu.cpp")], extra_include_paths=[str(folder)],
        extra_cflags=["-O3", "-march=native"], build_directory=str(build),
    )  # fmt: skip

    def run(parameters: dict[str, Tensor], c: Cameras) -> None:
        background = torch.zeros(3)
        ones = torch.ones(c.height, c.width, 3), torch.ones(c.height, c.width)
        for v in range(len(c)):
            means2d, depths, covars2d = projected(parameters, c, v)
            inverse = torch.linalg.inv(covars2d)
            conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
            leaves = [means2d, conics, parameters["colors"], parameters["opacities"]]
            given = (means2d - 0.5, conics, parameters["colors"], parameters["opacities"][:, None])
            values = [t.detach().contiguous() for t in given]
            _, v_xy, v_conic, v_color, v_opacity = module.blend(
                c.width,
                c.height,
                *values,
                background,
                covars2d.detach().contiguous(),
                depths.detach().contiguous(),
                *ones,
            )
            torch.autograd.backward(leaves, [v_xy, v_conic, v_color, v_opacity.reshape(-1)])

    return run


def cpu_seconds(run: Callable[..., None], parameters: dict[str, Tensor], c: Cameras) -> float:
    for p in parameters.values():
        p.grad = None
    began = time.thread_time()
    run(parameters, c)
    return time.thread_time() - began


def first_calls() -> dict[str, float]:
    """CPU and wall seconds of every kernel's first call in a new process: without and with machine code on disk."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[2])}
        for name in ("cold_compile", "warm_first_call"):
            command = [sys.executable, "-c", FIRST_CALL]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            out[f"{name}_cpu_s"], out[f"{name}_wall_s"] = (round(float(x), 2) for x in done.stdout.split())
    return out


def thread_scaling(parameters: dict[str, Tensor], c: Cameras, rounds: int) -> dict[str, float]:
    """Wall seconds with one and two threads, in turns; only means something on an idle machine."""
    times: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(rounds):
        for threads, seen in times.items():
            os.environ["SPLATMILL_THREADS"] = threads
            seen.append(sum(ours(parameters, c, time.perf_counter)))
    os.environ["SPLATMILL_THREADS"] = "1"
    return {k: statistics.median(v) for k, v in times.items()}


def critical_path(parameters: dict[str, Tensor], c: Cameras, parts: int, rounds: int) -> float:
    """How many times faster ``parts`` threads on cores of their own would be: each kernel's parts are run one after the
    other and compared with its longest, by CPU time, so that it means something on a busy machine too. What threads
    take from each other in caches and memory is not seen."""
    saved, ratios = (cpu.parallel, cpu.thread_count), []
    try:
        for _ in range(rounds):
            idle = 0.0

            def in_turns(work: Callable[[int, int], None]) -> None:
                nonlocal idle
                times = []
                for part in range(parts):
                    began = time.thread_time()
                    work(part, parts)
                    times.append(time.thread_time() - began)
                idle += sum(times) - max(times)

            cpu.parallel, cpu.thread_count = in_turns, lambda: parts
            total = sum(ours(parameters, c))
            ratios.append(total / (total - idle))
    finally:
        cpu.parallel, cpu.thread_count = saved
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help="comma-separated N@pixels")
    parser.add_argument("--peer-sizes", default="1000@64,5000@128", help="where torch renderers run (minutes beyond)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch-splatting", type=Path, metavar="DIR", help="checkout of hbb1/torch-splatting")
    parser.add_argument("--opensplat", type=Path, metavar="DIR", help="checkout of pierotofy/OpenSplat; compiled first")
    parser.add_argument("--skip-compile", action="store_true", help="do not measure first calls")
    options = parser.parse_args()
    torch.set_num_threads(1)
    busy = os.getloadavg()[0]
    versions = f"numba {numba.__version__}, torch {torch.__version__}"
    print(f"load average {busy:.1f}, {os.cpu_count()} processors, {versions}")
    peak()  # compile
    result: dict[str, object] = {"load_average": round(busy, 1), "rows": []}

    heads = f"{'N@pixels':>12} {'forward':>8} {'backward':>8} {'floor':>7} {'x floor':>7}"
    print(f"\n{heads}   ms of one core; kernels, ms")
    for size in options.sizes.split(","):
        row = measure(size, options.rounds)
        result["rows"].append(row)
        kernels = " ".join(f"{k} {v:.1f}" for k, v in row["kernels"].items())
        figures = f"{row['forward_ms']:8.1f} {row['backward_ms']:8.1f} {row['floor_ms']:7.2f} {row['floor_ratio']:7.2f}"
        print(f"{size:>12} {figures}   {kernels}")
        if size == "20000@256":
            result["floor_ratio_20k_256"] = row["floor_ratio"]

    peers: dict[str, Callable[[dict[str, Tensor], Cameras], None]] = {
        "torch_dense": torch_dense,
        "torch_tiles": torch_tiles,
    }
    if options.torch_splatting:
        peers["torch_splatting"] = torch_splatting(options.torch_splatting)
    result["peers"] = {size: duel(size, peers, rounds=3) for size in filter(None, options.peer_sizes.split(","))}
    duels = [d["torch_splatting"] for d in result["peers"].values() if "torch_splatting" in d]
    result["vs_torch_splatting"] = duels[-1] if duels else None  # at the last of the sizes
    result["vs_opensplat"] = None
    if options.opensplat:
        fast = {"opensplat": opensplat(options.opensplat)}
        sizes = ("1000@64", "5000@128", "20000@256")
        result["opensplat"] = {size: duel(size, fast, rounds=options.rounds)["opensplat"] for size in sizes}
        result["vs_opensplat"] = min(result["opensplat"].values())

    walls = thread_scaling(scene(20000), views(256), options.rounds)
    result["thread_scaling"] = round(walls["1"] / walls["2"], 2)
    path = round(critical_path(scene(20000), views(256), 2, options.rounds), 2)
    result["thread_scaling_critical_path"] = path
    both = ", ".join(f"{k}: {v * 1e3:.0f} ms" for k, v in walls.items())
    print(f"\nwall time by threads at 20000@256 {both} (load average {busy:.1f}); by critical path {path} x")
    result |= {"cold_compile_cpu_s": None, "warm_first_call_s": None}
    if not options.skip_compile:
        calls = first_calls()
        result |= calls
        result["warm_first_call_s"] = calls["warm_first_call_cpu_s"]
        print(f"first calls: {calls}")
    result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


def measure(size: str, rounds: int) -> dict[str, object]:
    """One row of the table: medians in ms, and the floor from the flop rate measured in the same rounds."""
    n, pixels = (int(x) for x in size.split("@"))
    parameters, c = scene(n), views(pixels)
    ours(parameters, c)
    spent, stop = stages()
    times, kernels, rates = [], [], []
    for _ in range(rounds):
        spent.clear()
        rates.append(peak())
        times.append(ours(parameters, c))
        kernels.append(dict(spent))
    stop()
    blocks = work(parameters, c)
    median = {k: statistics.median(r[k] for r in kernels) * 1e3 for k in kernels[0]}
    blend_ms = median["blend_forward"] + median["blend_backward"]
    lists_ms = median["find_pairs"] + median["fill_lists"]
    floor = blocks["blocks_8x1"] * 8 * (FLOP_FORWARD + FLOP_BACKWARD) / statistics.median(rates) * 1e3
    return {
        "size": size,
        "forward_ms": round(statistics.median(t[0] for t in times) * 1e3, 2),
        "backward_ms": round(statistics.median(t[1] for t in times) * 1e3, 2),
        "floor_ms": round(floor, 3),
        "floor_ratio": round(blend_ms / floor, 2),
        "floor_ratio_with_lists": round((blend_ms + lists_ms) / floor, 2),
        "peak_gflops": round(statistics.median(rates) / 1e9, 1),
        "kernels": {k: round(v, 2) for k, v in median.items()},
        **blocks,
    }


def duel(size: str, peers: dict[str, Callable[..., None]], rounds: int) -> dict[str, float]:
    """How many times longer each peer takes than we do, medians of ``rounds`` in turns."""
    n, pixels = (int(x) for x in size.split("@"))
    parameters, c = scene(n), views(pixels)
    ours(parameters, c)
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, run in peers.items():
            ours(parameters, c)  # what ran before has filled the caches
            mine.append(sum(ours(parameters, c)))
            if name == "torch_dense" and n * pixels * pixels > 10**7:
                continue  # gigabytes
            run(parameters, c)
            theirs[name].append(cpu_seconds(run, parameters, c))
    base = statistics.median(mine)
    ratios = {name: round(statistics.median(t) / base, 1) for name, t in theirs.items() if t}
    print(f"{size:>12} ours {base * 1e3:.1f} ms; " + ", ".join(f"{k} {v:.0f} x" for k, v in ratios.items()))
    return ratios


if __name__ == "__main__":
    main()
