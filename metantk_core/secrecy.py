"""Secrets of this process: a text that some library wrote enters; the same text without them leaves.

Our own sentences hold none by the way that they are made (``errors.without_addresses``, ``adapters.addresses``). The
texts of unexpected errors are anybody's: a driver may quote its address, an HTTP client its headers.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

_NAME = re.compile(r"(PASSW|SECRET|TOKEN|API_?KEY|CREDENTIAL|COOKIE)(?!.*_(FILE|PATH)$)", re.IGNORECASE)
# Of others, which no file should hold either; PWD and OLDPWD are the shell's folders.
_PASSWORD_NAME = re.compile(r"(?<!BY)(?<!COM)PASS(?![A-Z])|PASSPHRASE|(?<!^)(?<!^OLD)PWD(?![A-Z])", re.IGNORECASE)
_COOKIE = re.compile(r"[^\s=;]+=([^\s;]+)")
_ADDRESS = re.compile(r"://([^\s'\"<>@]*:[^\s'\"<>]*)@")
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY = re.compile(
    r"([?&;][^\s=&?]*(?:token|passw|pwd|secret|key|credential|auth|sig)[^\s=&?]*=)[^\s&'\"<>]+", re.IGNORECASE
)
# As drivers of databases take it; $(NAME) stands for another variable of the pod.
_SETTING = re.compile(r"(?:password|passwd|passphrase|pwd|secret|token|api_?key)\s*=\s*(?!\$[({])[^\s=]", re.IGNORECASE)
# The secret half of an AWS key has no other form than its length; a path of words may have it too, a digest doesn't.
_FORTY = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_MIXED = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9/+])")
_WORDS = re.compile(r"([A-Z]?[a-z]{2,}|[A-Z]{2,}|[0-9]+|[/+])*")
_HEADER = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9._~+/=-]{6,}")
# What providers of clouds and code give out, told by its form, and a private key.
_GIVEN_OUT = re.compile(
    r"\b((AKIA|ASIA)[A-Z0-9]{16}|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|hf_\w{20,}|xox[abprs]-[\w-]{10,}|"
    r"ya29\.[\w.-]{20,}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w.-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_HARMLESS = re.compile(r"true|false|[0-9]{0,6}", re.IGNORECASE)
_SHORTEST_REFUSED = 8
"""Characters of a secret that no file may hold; shorter ones are words that stand in many files."""
_SHORTEST = 4
"""Characters of a secret that is looked for; without a shorter one no text would stay readable."""
_INSTEAD = "…"


def redacted(text: str, also: Iterable[str] = ()) -> str:
    """Return a text without the secrets that this process knows, and without what addresses and headers hold of them.

    Known are the values of environment variables that are named like secrets, and the passwords in addresses among
    variables and arguments, in all the forms in which they travel.

    Args:
        text: What some library or server wrote.
        also: More secrets, such as the content of a file.
    """
    for secret in sorted(_known(also), key=len, reverse=True):
        text = text.replace(secret, _INSTEAD)
    text = _USER_AND_PASSWORD.sub(f"{_INSTEAD}@", text)
    text = _QUERY.sub(rf"\1{_INSTEAD}", text)
    return _HEADER.sub(rf"\1 {_INSTEAD}", text)


def may_be_secret(name: str, value: str) -> bool:
    """Return whether what stands under a name, in a file that many may read, looks like a secret or is one of ours."""
    named = bool(_NAME.search(name) or _PASSWORD_NAME.search(name)) and not _HARMLESS.fullmatch(value)
    known = any(len(secret) >= _SHORTEST_REFUSED and secret in value for secret in _known())
    forms = (_GIVEN_OUT, _USER_AND_PASSWORD, _QUERY, _HEADER, _SETTING)
    return named or known or any(form.search(value) for form in forms) or _holds_key(value)


def _holds_key(value: str) -> bool:
    return any(_MIXED.match(found) and not _WORDS.fullmatch(found) for found in _FORTY.findall(value))


def _known(also: Iterable[str] = ()) -> set[str]:
    found = set(also)
    for name, value in os.environ.items():
        if _NAME.search(name):
            found.add(value)
            if "COOKIE" in name.upper():
                found |= set(_COOKIE.findall(value))
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
