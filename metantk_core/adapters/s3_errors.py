"""What went wrong with an object store: an exception of boto3 enters; its cause, what to do, and whether to wait leave.

Texts of the server and of botocore stay out of it: they may quote an address with a password, or a whole page of HTML.
"""

import re
from dataclasses import dataclass, replace

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError


class DamagedError(Exception):
    """What came is not what was written: its length or SHA-256 is another one."""


@dataclass(frozen=True)
class Trouble:
    """Why a request failed.

    Attributes:
        cause: In a few words, to stand after a colon.
        remedy: What a person can do.
        passes: Whether it may be over soon without anybody doing anything.
        damage: Whether what is kept there is not what was written.
    """

    cause: str
    remedy: str
    passes: bool = False
    damage: bool = False


_LOG_IN = "log in again (such as with 'aws sso login'), or renew AWS_ACCESS_KEY_ID and what belongs to it"
_SERVER = "look whether the server is up and AWS_ENDPOINT_URL is its address"
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of an account there"
_TOKEN = Trouble("the session token has expired", _LOG_IN)
_DENIED = Trouble("access is denied", "let this account use s3:ListBucket, s3:GetObject and s3:PutObject there")
_RIGHTS = {  # of what not every account may do
    "read images from": "s3:GetObject",
    "list images in": "s3:ListBucket",
    "remove": "s3:DeleteObject",
    "look for unfinished objects in": "s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts",
    "remove unfinished parts of": "s3:AbortMultipartUpload",
}
_REGION = Trouble("the bucket lies in another region", "set AWS_DEFAULT_REGION to the region of the bucket")
_FULL = Trouble("there is no space left", "make room there")

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and those of other servers.
_CODES = {
    "NoSuchBucket": Trouble("there is no such bucket", "create it, or correct the address"),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AccountProblem": _DENIED,
    "InvalidAccessKeyId": Trouble("the access key is not known there", f"{_KEYS}; {_SERVER}"),
    "SignatureDoesNotMatch": Trouble("the secret key is not the one of this access key", _KEYS),
    "ExpiredToken": _TOKEN,
    "ExpiredTokenException": _TOKEN,
    "TokenRefreshRequired": _TOKEN,
    "RequestExpired": _TOKEN,
    "InvalidToken": Trouble("the session token is not valid", _LOG_IN),
    "RequestTimeTooSkewed": Trouble(
        "the clock of this machine and that of the server differ by more than 15 minutes", "set the clock (with NTP)"
    ),
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "KeyTooLongError": Trouble("the name of the object is too long", "give a shorter prefix"),
    "NoSuchUpload": Trouble("the server has forgotten the parts of a large object", "run the same command again"),
    "NotImplemented": Trouble("the server has no such request", "give a server with all of S3's basic requests"),
    "SlowDown": Trouble("the server asks to slow down", "run fewer processes at once", passes=True),
}
_PASSING = re.compile(
    "BadDigest|InvalidDigest|IncompleteBody|XAmzContentSHA256Mismatch|OperationAborted|ConditionalRequestConflict|"
    "RequestTimeout.*|.*Throttl.*|RequestLimitExceeded|TooManyRequests.*|InternalError|ServiceUnavailable|Busy"
)
_CODE = re.compile(r"[A-Za-z0-9_.]{1,60}")


def trouble(error: Exception, doing: str = "") -> Trouble:
    """Return why a request failed.

    Args:
        error: What boto3 raised, or ``DamagedError``.
        doing: What the request does, for people.
    """
    if isinstance(error, DamagedError | FlexibleChecksumError):
        remedy = "remove the object, which is then computed again"
        if doing.startswith("read images"):
            remedy = "look at what lies between here and the server, and compare the object with yours"
        return Trouble("what comes is not what was written", remedy, passes=True, damage=True)
    if isinstance(error, ClientError):
        known = _answered(code(error), status(error))
        if known.remedy == _DENIED.remedy and doing in _RIGHTS:
            return replace(known, remedy=f"let this account use {_RIGHTS[doing]} there")
        return known
    if isinstance(error, ResponseParserError):
        return Trouble("what answers does not speak S3", f"check host and port; {_SERVER}", True)
    assert isinstance(error, BotoCoreError)
    return _unanswered(error)


def code(error: ClientError) -> str:
    """Return the server's word for an error, such as ``NoSuchKey``; the status, such as ``404``, where it gave none."""
    text = str(error.response.get("Error", {}).get("Code", ""))
    return text if _CODE.fullmatch(text) else str(status(error))


def status(error: ClientError) -> int:
    """Return the HTTP status of an error, 0 if it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(word: str, number: int) -> Trouble:
    if word in _CODES:
        return _CODES[word]
    if word.startswith("KMS."):
        return Trouble(f"the encryption key can't be used ({word})", "check METANTK_S3_SSE_KMS_KEY_ID and its rights")
    if number == 507:
        return _FULL
    said = f"the server answers {word} ({number})"
    if word == str(number):
        said = f"the server answers {number} without a word of S3's"  # boto3 makes 500 of an answer that it can't read
    if _PASSING.fullmatch(word) or number in (408, 429) or (number >= 500 and number != 501):
        return Trouble(said, f"look at its log; {_SERVER}", passes=True)
    if number in (401, 403):
        return Trouble(f"access is denied ({word})", _DENIED.remedy)
    return Trouble(said, f"check the address; {_SERVER}")


def _unanswered(error: BotoCoreError) -> Trouble:
    """Return why there was no whole answer; the more special classes come first."""
    causes: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Trouble], ...] = (
        (NoCredentialsError, Trouble("there are no credentials", f"{_KEYS}, or run where a role gives them")),
        (PartialCredentialsError, Trouble("a part of the credentials is missing", _KEYS)),
        (ProfileNotFound, Trouble("there is no such profile", "correct AWS_PROFILE")),
        (
            (CredentialRetrievalError, SSOError, TokenRetrievalError, NoAuthTokenError, LoginError),
            Trouble("the credentials can't be had or have expired", _LOG_IN),
        ),
        (MetadataRetrievalError, Trouble("the credentials of this machine's role can't be had", _KEYS, True)),
        (
            SSLError,
            Trouble(
                "no TLS connection comes about",
                "set AWS_CA_BUNDLE to the certificate that vouches for the server, or give an http:// address if it "
                "speaks no TLS",
            ),
        ),
        (ProxyConnectionError, Trouble("the proxy does not answer", "check HTTPS_PROXY and NO_PROXY", True)),
        (ConnectTimeoutError, Trouble("nobody answers in time", f"{_SERVER}, and the network", True)),
        (ReadTimeoutError, Trouble("the server does not answer in time", f"{_SERVER}, and the network", True)),
        (EndpointConnectionError, Trouble("the server can't be reached", _SERVER, True)),
        (
            (HTTPClientError, IncompleteReadError),
            Trouble("the connection breaks off", f"{_SERVER}, and the network", True),
        ),
    )
    for kind, known in causes:
        if isinstance(error, kind):
            return known
    return Trouble(f"boto3 can't ask ({type(error).__name__})", "check the AWS_… variables and ~/.aws/config")
