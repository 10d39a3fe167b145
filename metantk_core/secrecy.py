"""Secrets of this process: a text that some library wrote enters; the same text without them leaves.

Our own sentences hold none by the way that they are made (``errors.without_addresses``, ``adapters.addresses``). The
texts of unexpected errors are anybody's: a driver may quote its address, an HTTP client its headers.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

_NAME = re.compile(r"(PASSW|SECRET|TOKEN|API_?KEY|CREDENTIAL)(?!.*_(FILE|PATH)$)", re.IGNORECASE)
_ADDRESS = re.compile(r"://([^\s'\"<>@]*:[^\s'\"<>]*)@")
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY = re.compile(
    r"([?&;][^\s=&?]*(?:token|passw|pwd|secret|key|credential|auth|sig)[^\s=&?]*=)[^\s&'\"<>]+", re.IGNORECASE
)
_HEADER = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9._~+/=-]{6,}")
_SHORTEST = 4
"""Characters of a secret that is looked for; without a shorter one no text would stay readable."""
_INSTEAD = "…"


def redacted(text: str) -> str:
    """Return a text without the secrets that this process knows, and without what addresses and headers hold of them.

    Known are the values of environment variables that are named like secrets, and the passwords in addresses among
    variables and arguments, in all the forms in which they travel.
    """
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, _INSTEAD)
    text = _USER_AND_PASSWORD.sub(f"{_INSTEAD}@", text)
    text = _QUERY.sub(rf"\1{_INSTEAD}", text)
    return _HEADER.sub(rf"\1 {_INSTEAD}", text)


def _known() -> set[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if _NAME.search(name):
            found.add(value)
    for word in (*os.environ.values(), *sys.argv):
        for login in _ADDRESS.findall(word):
            found |= {login.partition(":")[2], unquote(login.partition(":")[2])}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    logins = {base64.b64encode(f"{user}:{secret}".encode()).decode() for secret in found}
    forms = {form for secret in found if len(secret) >= _SHORTEST for form in _forms(secret)}
    return forms | logins


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
