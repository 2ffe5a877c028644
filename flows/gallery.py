"""The gallery: one HTML file beside the assets, with nothing to install and nothing to fetch.

write_gallery(Path("library"))          # -> library/gallery.html
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from catalog import report
from pipeline_core.errors import RequestError

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.4rem; } .note { opacity: .7; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure .still, figure .turn { width: 100%; aspect-ratio: 1; object-fit: cover; display: block; }
figure .turn { display: none; } figure:hover .turn { display: block; } figure:hover .turn + .still { display: none; }
figcaption { padding: .6rem .8rem .8rem; } figcaption b { font-weight: 600; }
.facts { font-size: .85em; opacity: .8; } .failed { color: #b3261e; } a { color: inherit; }
"""


def write_gallery(library: Path, output: Path | None = None) -> Path:
    """Write ``gallery.html`` for every asset of the library; returns its path."""
    if not (library / "catalog").is_dir():
        raise RequestError(f"--library {library}: no library here; splatmill run makes one")
    output = output or library / "gallery.html"
    assets = report.gallery_assets(library)
    relative = Path(os.path.relpath(library.absolute(), output.absolute().parent))
    made = [asset for asset in assets if asset["glb_path"]]
    cards = "\n".join(_card(asset, relative) for asset in [*made, *(a for a in assets if not a["glb_path"])])
    output.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>splatmill: {len(made)} assets</title><style>{STYLE}</style>
<h1>{len(made)} assets</h1>
<p class="note">{len(assets) - len(made)} more were asked for and are not made. Point at a picture to turn it.</p>
<div class="grid">
{cards}
</div></html>
""",
        encoding="utf-8",
    )
    return output


def _card(asset: dict[str, Any], relative: Path) -> str:
    """One asset as a figure; users' text is escaped, paths come from the catalogue."""
    prompt = html.escape(asset["prompt"] or asset["asset_id"])
    if not asset["glb_path"]:
        why = html.escape(f"{asset['error_stage'] or ''}: {asset['error_message'] or asset['status']}"[:300])
        return f'<figure><figcaption><b>{prompt}</b><div class="facts failed">{why}</div></figcaption></figure>'

    def link(path: str) -> str:
        return html.escape((relative / path).as_posix(), quote=True)

    pictures = ""
    if asset["turntable_path"]:
        pictures += f'<img class="turn" src="{link(asset["turntable_path"])}" alt="" loading="lazy">'
    if asset["preview_path"]:
        pictures += f'<img class="still" src="{link(asset["preview_path"])}" alt="{prompt}" loading="lazy">'
    facts = [f"seed {asset['seed']}", str(asset["recipe"]), f"{asset['faces'] or 0} faces"]
    if asset["fidelity"] is not None:
        facts.append(f"fidelity {asset['fidelity']:.2f}")
    files = f'<a href="{link(asset["glb_path"])}">GLB</a> <a href="{link(asset["splat_path"])}">splat</a>'
    caption = f'<b>{prompt}</b><div class="facts">{html.escape(", ".join(facts))}<br>{files}</div>'
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"
