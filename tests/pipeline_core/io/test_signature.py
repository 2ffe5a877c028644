"""C2PA signatures with a certificate of the test's own: one changed byte of a signed file shows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipeline_core.errors import DataError, RequestError
from pipeline_core.io import signature, xmp
from pipeline_core.io.gltf import save_glb
from pipeline_core.io.images import encode_png, save_turntable
from pipeline_core.validation.files import check_file
from tests.pipeline_core.io.test_gltf import tetrahedron

pytest.importorskip("c2pa", reason="pip install 'splatmill[c2pa]'")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402


def name(common):
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A test studio")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common), organisation])


def certificate(subject, key, issuer, issuer_key, *extensions):
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name(issuer), subject_name=name(subject), public_key=key.public_key(),
        serial_number=x509.random_serial_number(), not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=9),
    )  # fmt: skip
    extensions += (
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def usage(**of):
    kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**dict.fromkeys(kinds, False) | of)


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    """A signer whose certificate an authority of the test's own issued."""
    folder = tmp_path_factory.mktemp("certificate")
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate(
        "root", root, "root", root,
        (x509.BasicConstraints(ca=True, path_length=None), True), (usage(key_cert_sign=True, crl_sign=True), True),
    )  # fmt: skip
    leaf = certificate(
        "signer", own, "root", root,
        (x509.BasicConstraints(ca=False, path_length=None), True), (usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
    )  # fmt: skip
    (folder / "chain.pem").write_bytes(leaf + authority)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(own.private_bytes(*pem))
    names = {signature.CERTIFICATE: str(folder / "chain.pem"), signature.KEY: str(folder / "key.pem")}
    return signature.Signer.from_environment(names)


@pytest.fixture(scope="module")
def signed(tmp_path_factory, signer):
    """A PNG, a WebP and a GLB, marked and signed."""
    folder = tmp_path_factory.mktemp("signed")
    rng = np.random.default_rng(0)
    (folder / "a.png").write_bytes(encode_png(rng.random((12, 10, 3))))
    save_turntable(folder / "a.webp", rng.random((2, 16, 16, 3)))
    save_glb(folder / "a.glb", tetrahedron(), name="a")
    for path in sorted(folder.iterdir()):
        xmp.mark_file(path, xmp.Mark(title="a", prompts=("a <b>box</b> 🎁",), models=("m",), version="1"))
    return [(path, signature.sign(path, signer)) for path in sorted(folder.iterdir())]


def test_pictures_hold_their_signature_and_a_glb_has_it_beside_it(signed):
    assert [(path.name, holder.name) for path, holder in signed] == [
        ("a.glb", "a.glb.c2pa"), ("a.png", "a.png"), ("a.webp", "a.webp")]  # fmt: skip
    for path, _ in signed:
        assert signature.problem(path) == "" and signature.signer_of(path) == "A test studio"
        assert xmp.read_file(path).generated and xmp.read_file(path).prompt == "a <b>box</b> 🎁"
        assert check_file(path) == []


def test_one_changed_byte_fails_verification(signed, tmp_path):
    for path, holder in signed:
        data = path.read_bytes()
        (tmp_path / holder.name).write_bytes(holder.read_bytes())
        # a WebP's signature has filling at its end that means nothing; a PNG's chunks all have checksums
        end = data.find(b"C2PA") if path.suffix == ".webp" else len(data)
        for at in np.linspace(0, end - 1, 24).astype(int):
            changed = bytearray(data)
            changed[at] ^= 1
            (tmp_path / path.name).write_bytes(changed)
            codes = {each.code for each in check_file(tmp_path / path.name) if each.severity == "error"}
            assert codes & {"SIGNATURE_INVALID", "UNREADABLE"}, (path.name, at)


def test_what_cannot_be_signed_is_told(signer, tmp_path):
    with pytest.raises(RequestError, match="SPLATMILL_C2PA_CERTIFICATE and SPLATMILL_C2PA_KEY"):
        signature.Signer.from_environment({})
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((2, 2, 3))))
    with pytest.raises(DataError, match="does not say that a model made it"):
        signature.sign(tmp_path / "a.png", signer)
    xmp.mark_file(tmp_path / "a.png", xmp.Mark("a"))
    with pytest.raises(DataError, match=r"cannot be signed with .*the certificate is invalid"):
        signature.sign(tmp_path / "a.png", signature.Signer(signer.key, signer.key))
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    with pytest.raises(DataError, match=r"only \.png, \.webp, \.glb can"):
        signature.sign(tmp_path / "a.obj", signer)
