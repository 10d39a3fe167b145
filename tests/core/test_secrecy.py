"""What libraries write into their errors is told without secrets, in whatever form, and otherwise as it is."""

import base64

import pytest

from metantk_core.errors import without_addresses_of
from metantk_core.secrecy import redacted

PASSWORD = "p/s s'w\\rd=é"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        repr(PASSWORD),
        "p%2Fs%20s%27w%5Crd%3D%C3%A9",
        "p/s%20s%27w%5Crd%3D%C3%A9",
        "p%2Fs+s%27w%5Crd%3D%C3%A9",
        '{"password": "p/s s\'w\\\\rd=\\u00e9"}',
        base64.b64encode(f"me:{PASSWORD}".encode()).decode(),
    ],
)
def test_a_secret_of_the_environment_is_found_in_every_form_in_which_it_travels(form: str):
    told = redacted(f"before {form} after")
    assert told.startswith("before ")
    assert told.endswith(" after")
    for part in ("s'w", "%27w", "s\\'w", base64.b64encode(b"me:p").decode()[:4]):
        assert part not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no way to https://a:b@host:1/x?y=1", "no way to https://…@host:1/x?y=1"),
        ("postgresql+psycopg2://a:b/c@d@host/db failed", "postgresql+psycopg2://…@host/db failed"),
        ("GET /x?X-Amz-Signature=abc&y=1 failed", "GET /x?X-Amz-Signature=…&y=1 failed"),
        ("{'Authorization': 'Bearer abcdefgh'}", "{'Authorization': 'Bearer …'}"),
        ("read s3://bucket/key of https://host/path", "read s3://bucket/key of https://host/path"),
        ("line 3, in f\n    token=self.token, key=1", "line 3, in f\n    token=self.token, key=1"),
    ],
)  # fmt: skip
def test_what_addresses_and_headers_hold_is_left_out_and_nothing_else(text: str, told: str):
    assert redacted(text) == told


def test_a_password_in_an_address_of_the_environment_is_known_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter%402@host/db")
    assert redacted("FATAL: hunter@2 or hunter%402") == "FATAL: … or …"


def test_paths_of_secrets_and_words_too_short_to_be_some_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    monkeypatch.setenv("SOME_TOKEN", "no")
    assert redacted("no such file: /var/run/token") == "no such file: /var/run/token"


@pytest.mark.parametrize(
    "given",
    ["https://me:hunter2@host/x", "https://me:hunter2@host/x with more", "me:hunter2@host", "s3://b/k?token=hunter2"],
)
def test_a_sentence_loses_the_address_that_came_and_none_of_its_own_words(given: str):
    own = "expected http:// or https://, or a name@sha256:digest without '//', got "
    for came in (given, repr(given), f"{given.split()[0][:-1]}…"):
        told = without_addresses_of(given, own + came)
        assert told.startswith(f"{own}what may be an address")
        assert "hunter2" not in told
