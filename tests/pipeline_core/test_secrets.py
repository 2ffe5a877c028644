"""What is replaced, and what is left alone."""

import pytest

from pipeline_core.secrets import redact, redact_error

ENVIRONMENT = {
    "PREFECT_API_AUTH_STRING": "farmer:correct-horse",
    "HF_TOKEN": "hf_abcdefgh",
    "SPLATMILL_WEBHOOK": "https://hooks.example/T0/B0/xyz",
    "TOKENIZERS_PARALLELISM": "false",
    "HOME": "/home/farmer",
}


@pytest.mark.parametrize("text, clean", [
    ("401 for farmer:correct-horse", "401 for [hidden]"),
    ("password correct-horse refused", "password [hidden] refused"),
    ("Bearer hf_abcdefgh", "Bearer [hidden]"),
    ("POST https://hooks.example/T0/B0/xyz: 404", "POST [hidden]: 404"),
    ("postgresql+asyncpg://ana:pw@db/prefect is down", "postgresql+asyncpg://[hidden]@db/prefect is down"),
    ("nothing false about /home/farmer/x@2 or a@b", "nothing false about /home/farmer/x@2 or a@b"),
])  # fmt: skip
def test_secrets_are_replaced_and_nothing_else(text, clean):
    assert redact(text, ENVIRONMENT) == clean


def test_errors_are_cleaned_with_what_led_to_them(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    try:
        try:
            raise OSError(13, "no entry for hf_abcdefgh")
        except OSError as first:
            raise ValueError("hf_abcdefgh did not work", 7) from first
    except ValueError as error:
        redact_error(error)
        assert error.args == ("[hidden] did not work", 7)
        assert error.__cause__.args == (13, "no entry for [hidden]")
