"""Writes a GLB from its two parts, whatever they say."""

import json
import struct


def pack(path, document, body):
    """The container around ``document`` and ``body``, whose first buffer gets its length where it is plain."""
    body += b"\0" * (-len(body) % 4)
    if [set(each) for each in document.get("buffers", ())] == [{"byteLength"}]:
        document["buffers"][0]["byteLength"] = len(body)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
