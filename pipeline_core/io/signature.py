"""C2PA signatures: who delivers a file says so in it, and one changed byte shows.

    sign(Path("preview.png"), Signer.from_environment()); problem(Path("preview.png"))    # ""

Needs ``pip install 'splatmill[c2pa]'``. PNG and WebP hold their signature; a GLB has it beside it, in
``<name>.glb.c2pa``, for C2PA has no place in it. A signature names a certificate and a random id, so a signed file is
not the same twice; that is why what a library holds is unsigned, and copies that leave it are signed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline_core.errors import DataError, RequestError
from pipeline_core.files import write_bytes
from pipeline_core.io import xmp
from pipeline_core.version import code_version

CERTIFICATE, KEY, ALGORITHM = "SPLATMILL_C2PA_CERTIFICATE", "SPLATMILL_C2PA_KEY", "SPLATMILL_C2PA_ALGORITHM"
SIDECAR = ".c2pa"
_EMBEDDED = {".png": "image/png", ".webp": "image/webp"}
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False},
}


@dataclass(frozen=True)
class Signer:
    """``certificate``: a file of the PEM chain, the signer's first; ``key``: a file of its private key, in PEM."""

    certificate: Path
    key: Path
    algorithm: str = "es256"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Signer:
        """The signer that the environment names. Raises :class:`RequestError` where it names none."""
        missing = [name for name in (CERTIFICATE, KEY) if not environ.get(name)]
        if missing:
            raise RequestError(f"{' and '.join(missing)} must name files (PEM) to sign with; set them and sign again")
        return cls(Path(environ[CERTIFICATE]), Path(environ[KEY]), environ.get(ALGORITHM, "es256"))


def sign(path: Path, signer: Signer) -> Path:
    """Sign a PNG, WebP or GLB; returns the file that holds the signature.

    Raises :class:`RequestError` where the certificate or its key cannot be used or C2PA is not installed,
    :class:`DataError` where the file cannot be signed.
    """
    c2pa = _library()
    try:
        info = c2pa.C2paSignerInfo(signer.algorithm, signer.certificate.read_bytes(), signer.key.read_bytes(), None)
        with_key = c2pa.Signer.from_info(info)
    except (OSError, c2pa.C2paError) as error:
        raise RequestError(f"{signer.certificate} and {signer.key} cannot sign ({error})") from None
    embedded = _EMBEDDED.get(path.suffix)
    if not embedded and path.suffix != ".glb":
        raise DataError(f"{path} cannot be signed: only {', '.join([*_EMBEDDED, '.glb'])} can")
    builder = c2pa.Builder(_claim(path), _context())
    data, signed = path.read_bytes(), io.BytesIO()
    if not embedded:
        builder.set_no_embed()
    try:
        manifest = builder.sign(with_key, embedded or "model/gltf-binary", io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        raise DataError(f"{path} cannot be signed with {signer.certificate}: {error}") from None
    target = path if embedded else path.with_name(path.name + SIDECAR)
    write_bytes(target, signed.getvalue() if embedded else manifest)
    return target


def problem(path: Path) -> str:
    """Why the file is not what was signed; empty where it is, or was never signed.

    The signer need not be one that this machine trusts: :func:`signer_of` says who it is.
    """
    report = _read(path)
    if report is None:
        return ""
    if "error" in report:
        return str(report["error"])
    failures = report["validation_results"]["activeManifest"]["failure"]
    wrong = [each for each in failures if each["code"] != "signingCredential.untrusted"]
    return f"it is not what was signed: {wrong[0]['explanation']} ({wrong[0]['code']})" if wrong else ""


def signer_of(path: Path) -> str:
    """The organisation that signed the file; empty where it is not signed."""
    report = _read(path)
    if not report or "error" in report:
        return ""
    found = report["manifests"][report["active_manifest"]]["signature_info"]
    return str(found.get("issuer") or found.get("common_name") or "unnamed")


def is_signed(path: Path) -> bool:
    """Whether the file holds a signature or has one beside it, whole or not."""
    if path.suffix in _EMBEDDED:
        data = path.read_bytes()
        return b"caBX" in data if path.suffix == ".png" else b"C2PA" in data
    return path.with_name(path.name + SIDECAR).is_file()


def _claim(path: Path) -> dict[str, Any]:
    said = xmp.read_file(path)
    if not said.generated:
        raise DataError(
            f"{path} does not say that a model made it, so it is not signed as that; was it made by splatmill?"
        )
    action = {"action": "c2pa.created", "digitalSourceType": xmp.GENERATED, "description": said.prompt}
    return {
        "claim_generator_info": [{"name": "splatmill", "version": code_version()}],
        "title": path.name,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


def _read(path: Path) -> dict[str, Any] | None:
    """C2PA's report of a file; None where it is not signed."""
    if not is_signed(path):
        return None
    try:
        c2pa = _library()
    except RequestError as error:
        return {"error": f"it is signed, and the signature cannot be looked at: {error}"}
    sidecar = path.with_name(path.name + SIDECAR)
    manifest = None if path.suffix in _EMBEDDED else sidecar.read_bytes()
    kind = _EMBEDDED.get(path.suffix, "model/gltf-binary")
    try:
        with c2pa.Reader(kind, io.BytesIO(path.read_bytes()), manifest, _context()) as reader:
            report: dict[str, Any] = json.loads(reader.json())
            return report
    except c2pa.C2paError as error:
        return {"error": f"its signature cannot be read: {error}"}


def _library() -> Any:
    if importlib.util.find_spec("c2pa") is None:
        raise RequestError("C2PA is not installed: pip install 'splatmill[c2pa]'")
    import c2pa

    return c2pa


@lru_cache(maxsize=1)
def _context() -> Any:
    c2pa = _library()
    return c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
