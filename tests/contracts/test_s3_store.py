"""What a store in a bucket does when the server, the network, the clock or the credentials fail; and what it sends."""

import base64
import datetime
import hashlib
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import boto3
import botocore.auth
import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from object_servers import (
    BUCKET,
    NARROW,
    NARROWS_SECRET,
    READER,
    READERS_SECRET,
    SECRET,
    USER,
    Moto,
    SeaweedFS,
    environment,
    raw_client,
    seaweedfs_program,
)

from metantk_core import wiring
from metantk_core.adapters import s3, s3_requests
from metantk_core.adapters.addresses import admit_bucket
from metantk_core.adapters.s3 import Patience, S3Store
from metantk_core.errors import InputError

QUICK = Patience(connect=1.0, read=1.0, total=20.0)
ONCE: tuple[Fault, ...] = tuple(
    fault for fault in get_args(Fault) if fault not in ("expired", "skewed", "no upload", "no such request")
)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(address: str, **account: str) -> None:
        for name, value in environment(address, **account).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def proxy(moto: Moto, use: Callable[..., None]) -> Iterator[FaultyProxy]:
    """A proxy before moto, through which everything goes."""
    with FaultyProxy(moto.address) as proxy:
        use(proxy.address)
        yield proxy


@pytest.fixture
def strict_proxy(
    seaweedfs: SeaweedFS, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """A proxy before SeaweedFS, which sees what arrives torn; on a busy machine its first answer may take long."""
    monkeypatch.setattr("metantk_core.adapters.s3_requests._SECONDS_TO_GIVE_UP", 60.0)
    with FaultyProxy(seaweedfs.address) as proxy:
        use(proxy.address)
        yield proxy


def first(fault: Fault, method: str, times: int = 1) -> Callable[[Request], Fault | None]:
    """Return a choice that hits the first requests of a method."""
    left = [times]

    def choose(request: Request) -> Fault | None:
        if request.method != method or not left[0]:
            return None
        left[0] -= 1
        return fault

    return choose


def sentence(uri: str) -> str:
    """Return what is said about a store that can't be used, after making sure that it is said in time."""
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        wiring.artifact_store(uri)
    assert time.monotonic() - begun < 10
    text = str(caught.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


# What is said at the start


def test_a_missing_bucket_a_wrong_secret_and_an_unknown_key_are_told_apart(
    seaweedfs: SeaweedFS, use: Callable[..., None]
):
    use(seaweedfs.address)
    text = sentence("s3://no-such-bucket/a")
    assert text == (
        f"Can't use s3://no-such-bucket/a/ at {seaweedfs.address}: there is no such bucket; create it, or correct the "
        "address."
    )
    use(seaweedfs.address, secret="a-wrong-secret")
    text = sentence(f"s3://{BUCKET}/a")
    assert "the secret key is not the one of this access key" in text
    assert "a-wrong-secret" not in text
    use(seaweedfs.address, user="nobody")
    assert "the access key is not known there" in sentence(f"s3://{BUCKET}/a")


def test_credentials_that_are_not_there_are_asked_for(moto: Moto, use: Any, monkeypatch: pytest.MonkeyPatch):
    use(moto.address)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "a part of the credentials is missing" in sentence(f"s3://{BUCKET}/a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "there are no credentials; set AWS_ACCESS_KEY_ID" in sentence(f"s3://{BUCKET}/a")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "there is no such profile; correct AWS_PROFILE" in sentence(f"s3://{BUCKET}/a")


def test_a_machine_whose_clock_is_wrong_is_told_so(
    seaweedfs: SeaweedFS, use: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
):
    use(seaweedfs.address)
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    right = botocore.auth.get_current_datetime

    def an_hour_late(*arguments: Any, **named: Any) -> datetime.datetime:
        return right(*arguments, **named) - datetime.timedelta(hours=1)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", an_hour_late)
    assert "the clock of this machine and that of the server differ" in sentence(f"s3://{BUCKET}/{prefix}")
    for work in (lambda: store.write("a", b""), lambda: store.read("a"), lambda: list(store.keys())):
        with pytest.raises(InputError, match="clock of this machine"):
            work()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("internal error", "the server answers InternalError (500)"),
        ("slow down", "the server asks to slow down"),
        ("expired", "the session token has expired; log in again"),
        ("skewed", "the clock of this machine"),
        ("html", "without a word of S3's"),
        pytest.param("hang", "no answer within 9 seconds", marks=pytest.mark.minutes),
        ("reset before", "the connection breaks off"),
        ("reset in answer", ""),  # which of the two above is said depends on boto3's version
    ],
)
def test_a_server_that_does_not_work_is_noticed_within_ten_seconds(proxy: FaultyProxy, fault: Fault, said: str):
    proxy.choose = lambda _: fault
    assert said in sentence(f"s3://{BUCKET}/a")


def test_nobody_at_the_address_is_noticed_and_what_the_address_holds_stays_secret(use: Any):
    use("http://me:hidden@127.0.0.1:9")
    text = sentence(f"s3://{BUCKET}/a")
    assert "at http://127.0.0.1:9: the server can't be reached" in text
    assert "hidden" not in text
    use("not an address, but hidden")
    text = sentence(f"s3://{BUCKET}/a")
    assert "AWS_ENDPOINT_URL or the region is not valid" in text
    assert "hidden" not in text


def test_a_server_without_tls_or_with_an_unknown_certificate_is_no_https_server(moto: Moto, use: Any):
    use(moto.address.replace("http:", "https:"))
    assert "TLS" in sentence(f"s3://{BUCKET}/a")


def test_an_unknown_encryption_is_refused(moto: Moto, use: Any, monkeypatch: pytest.MonkeyPatch):
    use(moto.address)
    monkeypatch.setenv(s3.ENCRYPTION, "rot13")
    assert "Expected one of AES256, aws:kms, aws:kms:dsse in METANTK_S3_SSE" in sentence(f"s3://{BUCKET}/a")
    monkeypatch.setenv(s3.ENCRYPTION, "AES256")
    monkeypatch.setenv(s3.ENCRYPTION_KEY, "a-key")
    assert "needs METANTK_S3_SSE=aws:kms" in sentence(f"s3://{BUCKET}/a")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3://b",
        "s3://Bucket/a",
        "s3://bucket:9000/a",
        "s3://bucket/a//b",
        "s3://bucket/../a",
        "s3://bucket//",
        "s3://bucket/a\\b",
        "S3://b_c/x",
        f"s3://bucket/{'a' * 501}",
    ],
)
def test_an_address_that_is_no_bucket_is_refused(uri: str):
    with pytest.raises(InputError, match="Expected a place in a bucket as s3://bucket/prefix"):
        admit_bucket(uri)


@pytest.mark.parametrize("uri", ["s3://me:hidden@bucket/a", "s3://bucket/a?token=hidden", "s3://bucket/secret=hidden"])
def test_an_address_with_credentials_is_refused_without_repeating_them(uri: str):
    with pytest.raises(InputError, match="set AWS_ACCESS_KEY_ID") as caught:
        admit_bucket(uri)
    assert "hidden" not in str(caught.value)


def test_bucket_and_prefix_are_the_parts_of_the_address():
    assert admit_bucket("s3://bucket") == admit_bucket("s3://bucket/") == ("bucket", "")
    assert admit_bucket("s3://a.bucket-1/run/2/") == ("a.bucket-1", "run/2")


def test_without_boto3_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for module in ("s3", "s3_requests"):
        monkeypatch.delitem(sys.modules, f"metantk_core.adapters.{module}")
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "needs boto3, which is not installed; pip install 'metantk[storage]'" in sentence("s3://bucket/a")


def test_a_folder_needs_no_boto3(tmp_path: Path):
    code = (
        "import sys; from metantk_core import wiring; wiring.artifact_store('x').write('a', b''); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"boto3", "botocore", "s3transfer"} & set(done.stdout.split())


# What is sent


def test_the_whole_bucket_may_be_the_store(moto: Moto, use: Any):
    bucket = f"bucket-{uuid.uuid4().hex}"
    raw_client(moto.address).create_bucket(Bucket=bucket)
    use(moto.address)
    store = wiring.artifact_store(f"s3://{bucket}")
    store.write("run/a", b"data")
    assert store.place("run/a") == f"s3://{bucket}/run/a"
    assert list(store.keys()) == ["run/a"]
    assert raw_client(moto.address).get_object(Bucket=bucket, Key="run/a")["Body"].read() == b"data"


def test_a_server_of_ones_own_needs_no_host_name_for_a_bucket_unless_it_is_said_to(
    proxy: FaultyProxy, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address.replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    wiring.artifact_store(f"s3://{BUCKET}/{prefix}").write("a", b"")
    assert all(request.target.startswith(f"/{BUCKET}") for request in proxy.seen)
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "the server can't be reached" in sentence(f"s3://{BUCKET}/{prefix}")  # at metantk-tests.localhost


def test_every_key_is_an_object_of_plain_ascii(moto: Moto, use: Any, prefix: str):
    # XML, in which lists come, can't hold every character, and not every server escapes.
    use(moto.address)
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    store.write("\x01/ü +%", b"data")
    (there,) = raw_client(moto.address).list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert there["Key"] == f"{prefix}/%01/%C3%BC%20%2B%25"
    assert store.place("\x01/ü +%") == f"s3://{BUCKET}/{there['Key']}"
    assert list(store.keys("\x01/ü")) == ["\x01/ü +%"]


@pytest.mark.parametrize("size", [10, 33 * 2**20])
def test_bytes_are_sent_with_their_md5_and_kept_with_their_sha256(proxy: FaultyProxy, prefix: str, size: int):
    wiring.artifact_store(f"s3://{BUCKET}/{prefix}").write("a", bytes(size))
    sent = [seen for seen in proxy.seen if seen.method == "PUT"]
    assert sum(len(seen.body) for seen in sent) == size
    for seen in sent:
        assert base64.b64decode(seen.fields[b"content-md5"]) == hashlib.md5(seen.body).digest()
    (head,) = [seen.fields for seen in proxy.seen if b"x-amz-meta-sha256" in seen.fields]
    assert head[b"x-amz-meta-sha256"].decode() == hashlib.sha256(bytes(size)).hexdigest()


def test_objects_are_encrypted_as_the_environment_says(
    moto: Moto, use: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
):
    use(moto.address)
    monkeypatch.setenv(s3.ENCRYPTION, "aws:kms")
    monkeypatch.setenv(s3.ENCRYPTION_KEY, "a-key")
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    for key, size in {"small": 1, "large": 33 * 2**20}.items():
        store.write(key, bytes(size))
        head = raw_client(moto.address).head_object(Bucket=BUCKET, Key=f"{prefix}/{key}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "a-key")


def test_objects_of_others_are_no_keys_and_those_without_a_checksum_are_read(moto: Moto, use: Any, prefix: str):
    use(moto.address)
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    for name in ("", "folder/", "a%2Fb", "a%ff", "a b", "copied/by/another/program"):
        raw_client(moto.address).put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"data")
    assert list(store.keys()) == ["copied/by/another/program"]
    assert store.read("copied/by/another/program") == b"data"


def test_a_key_that_is_too_long_for_s3_is_refused(moto: Moto, use: Any, prefix: str):
    use(moto.address)
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    longest = 1024 - len(prefix) - 1
    store.write("a" * longest, b"")
    with pytest.raises(InputError, match="at most 1024 bytes"):
        store.write("a" * (longest + 1), b"")


# Large objects


LARGE = random.Random(1).randbytes(40 * 2**20 + 5)


@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
def test_a_large_object_goes_in_parts_and_comes_back_whole(server: str, request: Any, use: Any, prefix: str):
    behind = request.getfixturevalue(server)
    with FaultyProxy(behind.address) as proxy:
        use(proxy.address)
        store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
        store.write("large", LARGE)
        parts = [len(seen.body) for seen in proxy.seen if "partNumber" in seen.target]
        assert sorted(parts) == [2**23 + 5, 2**24, 2**24]
        assert store.read("large") == LARGE


@pytest.mark.parametrize("fault", ["reset in request", "torn request", "lost answer"])
def test_a_fault_in_a_part_costs_that_part(strict_proxy: FaultyProxy, prefix: str, fault: Fault):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    strict_proxy.choose = first(fault, "PUT")
    store.write("large", LARGE)
    assert sum("partNumber" in seen.target for seen in strict_proxy.seen) == 4
    assert hashlib.sha256(store.read("large") or b"").digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize("then", [None, "no upload"])
def test_a_lost_answer_to_the_last_request_of_a_large_object_is_no_failure(
    strict_proxy: FaultyProxy, prefix: str, then: Fault | None
):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    script: list[Fault | None] = [
        "lost answer",
        then,
    ]  # asked again, some servers answer as before, others know nothing

    def choose(seen: Request) -> Fault | None:
        return script.pop(0) if seen.method == "POST" and "uploadId" in seen.target and script else None

    strict_proxy.choose = choose
    store.write("large", LARGE)
    assert script == []
    assert store.read("large") == LARGE


def test_a_large_object_whose_upload_the_server_has_forgotten_is_not_taken_for_written(
    strict_proxy: FaultyProxy, prefix: str
):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    store.write("large", b"old")
    strict_proxy.choose = lambda seen: "no upload" if seen.method == "POST" and "uploadId" in seen.target else None
    with pytest.raises(InputError, match="the server has forgotten the parts"):
        store.write("large", LARGE)
    assert store.read("large") == b"old"


def test_an_interrupted_large_write_leaves_the_old_object_and_no_parts(moto: Moto, proxy: FaultyProxy, prefix: str):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    store.write("large", b"old")
    parts = [0]

    def interrupted(**arguments: Any) -> Any:
        parts[0] += 1
        if parts[0] == 2:
            raise KeyboardInterrupt
        return {"ETag": "x"}

    assert isinstance(store, S3Store)
    store.client.upload_part = interrupted
    with pytest.raises(KeyboardInterrupt):
        store.write("large", LARGE)
    assert store.read("large") == b"old"
    uploads = raw_client(moto.address).list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    assert uploads.get("Uploads", []) == []


# Faults


@pytest.mark.parametrize("fault", ONCE)
def test_one_fault_is_survived_without_a_trace(strict_proxy: FaultyProxy, prefix: str, fault: Fault):
    store = s3.connect(BUCKET, prefix, QUICK)
    data = random.Random(2).randbytes(200_000)
    for method, work in {
        "PUT": lambda: store.write("a", data),
        "GET": lambda: store.read("a"),
        "HEAD": lambda: store.exists("a"),
    }.items():
        strict_proxy.choose = first(fault, method)
        result = work()
        if method != "PUT":
            assert result == {"GET": data, "HEAD": True}[method]
    assert strict_proxy.done[fault] == 3
    strict_proxy.choose = first(fault, "GET")
    assert list(store.keys()) == ["a"]


def test_what_arrives_torn_is_refused_by_a_server_that_checks_and_sent_again(
    strict_proxy: FaultyProxy, seaweedfs: SeaweedFS, prefix: str
):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    strict_proxy.choose = first("torn request", "PUT", times=3)
    store.write("a", b"data of a score")
    assert strict_proxy.done["torn request"] == 3
    there = raw_client(seaweedfs.address).get_object(Bucket=BUCKET, Key=f"{prefix}/a")
    assert there["Body"].read() == b"data of a score"
    assert there["ETag"].strip('"') == hashlib.md5(b"data of a score").hexdigest()
    sent = [seen for seen in strict_proxy.seen if seen.method == "PUT"]
    assert len(sent) == 4


def test_what_a_careless_server_has_stored_torn_is_never_returned(proxy: FaultyProxy, prefix: str):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    proxy.choose = first("torn request", "PUT")
    store.write("a", b"data of a score")  # moto compares no checksum
    store.write("b", b"more")
    with pytest.raises(InputError, match=rf"Can't read s3://{BUCKET}/{prefix}/a at .*what comes is not what was writ"):
        store.read("a")
    assert store.read("b") == b"more"
    store.write("a", b"data of a score")
    assert store.read("a") == b"data of a score"


def test_an_answer_that_is_torn_again_and_again_is_never_returned(proxy: FaultyProxy, prefix: str):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    store.write("a", b"data of a score")
    proxy.choose = lambda seen: "torn answer" if seen.method == "GET" else None
    with pytest.raises(InputError, match="remove the object, which is then computed again"):
        store.read("a")
    proxy.choose = lambda _: None
    assert store.read("a") == b"data of a score"


@pytest.fixture(params=["moto", "seaweedfs"])
def narrow(request: pytest.FixtureRequest, use: Callable[..., None]) -> Iterator[str]:
    """Prefix below which this process has the least rights, by the policy of the manual or the like of it."""
    server = request.getfixturevalue(request.param)
    if request.param == "seaweedfs":
        use(server.address, user=NARROW, secret=NARROWS_SECRET)
        yield "narrow"
        return
    manual = Path(__file__).parents[2].joinpath("docs", "storage.md").read_text(encoding="utf-8")
    policy = re.search(r"```json\n(.*?)```", manual, re.DOTALL)
    assert policy is not None
    text = policy[1].replace("my-bucket", BUCKET)
    session = boto3.Session(aws_access_key_id=USER, aws_secret_access_key=SECRET, region_name="us-east-1")
    accounts = session.client("iam", endpoint_url=server.address)
    name = uuid.uuid4().hex
    accounts.create_user(UserName=name)
    accounts.put_user_policy(UserName=name, PolicyName="least", PolicyDocument=text)
    key = accounts.create_access_key(UserName=name)["AccessKey"]
    use(server.address, user=key["AccessKeyId"], secret=key["SecretAccessKey"])
    _ask_moto_for_rights(server, "0")  # of whoever comes from the next request on
    yield "metantk"
    _ask_moto_for_rights(server, "inf")


def _ask_moto_for_rights(server: Moto, after: str) -> None:
    address = f"{server.address}/moto-api/reset-auth"
    urllib.request.urlopen(urllib.request.Request(address, after.encode(), {"Content-Type": "text/plain"})).close()


def test_the_least_rights_are_enough_and_nothing_else_is_allowed(narrow: str):
    store = wiring.artifact_store(f"s3://{BUCKET}/{narrow}")
    assert isinstance(store, S3Store)
    large = random.Random(0).randbytes(40 * 2**20)
    store.write("a/large", large)
    store.write("a/small", b"x")
    assert (store.read("a/large"), store.read("a/small")) == (large, b"x")
    assert sorted(store.keys("a/")) == ["a/large", "a/small"]
    assert store.read("a/nothing") is None
    with pytest.raises(InputError, match="access is denied"):
        wiring.artifact_store(f"s3://{BUCKET}/elsewhere").write("a", b"x")


def test_who_may_only_read_is_told_what_is_missing(seaweedfs: SeaweedFS, use: Any, prefix: str):
    use(seaweedfs.address)
    wiring.artifact_store(f"s3://{BUCKET}/{prefix}").write("a", b"data")
    use(seaweedfs.address, user=READER, secret=READERS_SECRET)
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    assert store.read("a") == b"data"
    with pytest.raises(InputError) as caught:
        store.write("a", b"other")
    assert str(caught.value) == (
        f"Can't write s3://{BUCKET}/{prefix}/a at {seaweedfs.address}: access is denied; let this account use "
        "s3:ListBucket, s3:GetObject and s3:PutObject there."
    )
    assert store.read("a") == b"data"


@pytest.mark.parametrize(("fault", "said"), [("expired", "the session token has expired"), ("skewed", "the clock of")])
def test_what_no_waiting_mends_is_said_at_once_and_not_asked_again(
    proxy: FaultyProxy, prefix: str, fault: Fault, said: str
):
    store = wiring.artifact_store(f"s3://{BUCKET}/{prefix}")
    store.write("a", b"data")
    proxy.choose = lambda _: fault
    for work in (
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.exists("a"),
        lambda: list(store.keys()),
    ):
        before = sum(proxy.done.values())
        with pytest.raises(InputError, match=said):
            work()
        assert (
            sum(proxy.done.values()) - before <= 4
        )  # boto3 asks thrice for some; HEAD has no reason, GET is asked for it


def test_a_server_that_stays_away_is_given_up_with_a_sentence_after_a_warning(
    proxy: FaultyProxy, prefix: str, caplog: pytest.LogCaptureFixture
):
    store = s3.connect(BUCKET, prefix, Patience(connect=1.0, read=1.0, total=6.0))
    proxy.choose = lambda _: "reset before"
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        store.write("a", b"data")
    assert 3 < time.monotonic() - begun < 20
    assert str(caught.value) == (
        f"Can't write s3://{BUCKET}/{prefix}/a at {proxy.address}: the connection breaks off; look whether the server "
        "is up and AWS_ENDPOINT_URL is its address, and the network; then run the same command again: what is finished "
        "is kept."
    )
    assert [record.getMessage() for record in caplog.records if record.name == s3_requests.__name__] == [
        f"Can't write s3://{BUCKET}/{prefix}/a at {proxy.address}: the connection breaks off; trying again for up to 6 "
        "s."
    ]


def test_a_bucket_that_goes_away_is_not_taken_for_an_empty_one(moto: Moto, use: Any):
    bucket = f"bucket-{uuid.uuid4().hex}"
    raw_client(moto.address).create_bucket(Bucket=bucket)
    use(moto.address)
    store = wiring.artifact_store(f"s3://{bucket}/a")
    raw_client(moto.address).delete_bucket(Bucket=bucket)
    for work in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: list(store.keys())):
        with pytest.raises(InputError, match=f"s3://{bucket}/a/.*there is no such bucket"):
            work()


@pytest.mark.minutes
@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
def test_of_a_thousand_requests_of_which_a_fifth_fail_none_is_lost_and_none_is_torn(
    server: str, request: Any, use: Any, prefix: str
):
    faults: tuple[Fault, ...] = (
        "internal error",
        "slow down",
        "hang",
        "reset before",
        "reset in request",
        "lost answer",
        "reset in answer",
        "torn answer",
    )
    # A pause that the server asks for, and a wait for an answer, take long by nature: these two are the rarest.
    weights = (20, 1, 1, 20, 20, 20, 20, 20)
    luck, lock = random.Random(3), threading.Lock()

    def choose(_: Request) -> Fault | None:
        with lock:
            return luck.choices(faults, weights)[0] if luck.random() < 0.2 else None

    with FaultyProxy(request.getfixturevalue(server).address, choose) as proxy:
        use(proxy.address)
        store = s3.connect(BUCKET, prefix, QUICK)

        def exchange(number: int) -> bool:
            data = random.Random(number).randbytes(5000 + number)
            store.write(f"{number % 10}/{number}", data)
            return store.read(f"{number % 10}/{number}") == data

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(exchange, range(500)))
        assert sorted(store.keys()) == sorted(f"{number % 10}/{number}" for number in range(500))
        asked, failed = sum(proxy.done.values()), sum(proxy.done[fault] for fault in faults)
    assert asked > 1200
    assert 0.15 < failed / asked < 0.25
    assert all(proxy.done[fault] for fault in faults)
    behind = raw_client(request.getfixturevalue(server).address)
    for number in (0, 123, 499):
        there = behind.get_object(Bucket=BUCKET, Key=f"{prefix}/{number % 10}/{number}")["Body"].read()
        assert there == random.Random(number).randbytes(5000 + number)


@pytest.mark.minutes
def test_a_server_that_is_killed_and_comes_back_costs_waiting_and_nothing_else(tmp_path: Path, use: Any):
    server = SeaweedFS(tmp_path, seaweedfs_program())
    try:
        use(server.address)
        store = wiring.artifact_store(f"s3://{BUCKET}/run")
        written: dict[str, bytes] = {}
        stop = threading.Event()

        def work() -> None:
            for number in range(10_000):
                if stop.is_set():
                    return
                data = random.Random(number).randbytes(2000)
                store.write(f"{number:05}", data)
                written[f"{number:05}"] = data

        with ThreadPoolExecutor(1) as pool:
            worker = pool.submit(work)
            _until(lambda: len(written) > 50)
            server.kill()
            time.sleep(1)
            before = len(written)
            server.start()
            _until(lambda: len(written) > before + 50 or worker.done())
            stop.set()
            worker.result()
        assert list(store.keys()) == sorted(written)
        assert all(store.read(key) == data for key, data in written.items())
    finally:
        server.stop()


def _until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.05)
