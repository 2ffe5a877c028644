"""What ``webdataset`` and ``datasets``, in whose Python this runs, read of a dataset: lines ``READ {...}``.

in_datasets.py FOLDER CACHE
"""

import json
import sys
from pathlib import Path

import datasets
import webdataset

folder, cache = Path(sys.argv[1]), sys.argv[2]
samples = {}
for tar in sorted((folder / "webdataset").glob("*.tar")):
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8"):
        names = sorted(name for name in sample if not name.startswith("__"))
        facts = sample["json"]
        samples[sample["__key__"]] = {
            "split": facts["split"],
            "text": sample["txt"],
            "picture": list(sample["preview.png"].shape) if "preview.png" in names else None,
            "glb": sample["glb"][:4].decode(),
            "names": names,
        }
print("READ " + json.dumps({"by": "webdataset", "samples": samples}))
tars = {split: str(folder / "webdataset" / f"{split}-*.tar") for split in {each["split"] for each in samples.values()}}
for name, words in {"assets": (str(folder), None), "webdataset": ("webdataset", tars)}.items():
    found = datasets.load_dataset(words[0], data_files=words[1], cache_dir=cache)
    rows = {split: list(rows) for split, rows in found.items()}
    keys = {split: [row["asset_id" if name == "assets" else "__key__"] for row in each] for split, each in rows.items()}
    first = next(iter(rows.values()))[0]
    picture = first["preview" if name == "assets" else "preview.png"]
    told = {"keys": keys, "picture": type(picture).__name__, "size": list(picture.size)}
    prompts = [row["prompt"] if name == "assets" else row["txt"] for each in rows.values() for row in each]
    print("READ " + json.dumps({"by": f"datasets {name}", "prompts": prompts, **told}))
