"""Models by URL: whole and right, or not there at all; from a real server on loopback, over HTTP and as S3."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.objects import KEY_ID, ObjectServer, credentials, serving
from understudy.errors import ConfigurationError
from understudy.inference import fetch
from understudy.inference.cards import Card, OutputSpec, digest_of
from understudy.inference.fetch import ModelCache

SIZE = 3 * 2**20 + 7


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A bucket with two model folders and a bare file: their bytes are nobody's model, and are not opened here."""
    for number, name in enumerate(("poc", "better")):
        folder = tmp_path / "bucket" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bytes([number]) * SIZE)
        card = Card(
            name=name,
            version="1",
            task="other",
            inputs=[],
            digest=digest_of(folder / "model.onnx"),
            outputs=[OutputSpec(name="y", dtype="float32", shape=[None])],
        )
        (folder / "card.json").write_text(card.model_dump_json())
    return tmp_path / "bucket"


@pytest.fixture
def web(bucket: Path) -> Iterator[ObjectServer]:
    with serving(bucket) as server:
        yield server


@pytest.fixture
def s3(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    with serving(bucket.parent, signed=True) as server:
        for name, value in credentials(server).items():
            monkeypatch.setenv(name, value)
        yield server


def cache(tmp_path: Path, max_bytes: int = 2**30) -> ModelCache:
    return ModelCache(tmp_path / "cache", max_bytes=max_bytes, timeout_s=5)


def named(url: str, file: Path) -> str:
    return f"{url}#{digest_of(file).replace(':', '=')}"


def test_a_card_brings_its_model_once(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    source = named(f"{web.url}/poc/card.json", bucket / "poc/card.json")
    folder = Path(cache(tmp_path).local(source))
    assert {p.name for p in folder.iterdir()} == {"card.json", "model.onnx"}
    assert (folder / "model.onnx").read_bytes() == (bucket / "poc/model.onnx").read_bytes()
    assert web.asked == ["/poc/card.json", "/poc/model.onnx"]
    assert cache(tmp_path).local(source) == str(folder)
    assert len(web.asked) == 2, "what is here is not asked for again"


def test_a_bare_file_from_s3_with_a_signed_request(tmp_path: Path, bucket: Path, s3: ObjectServer) -> None:
    (bucket / "poc/model.onnx").rename(bucket / "poc/flights-2013.onnx")
    source = named("s3://bucket/poc/flights-2013.onnx", bucket / "poc/flights-2013.onnx")
    found = Path(cache(tmp_path).local(source))
    assert found.name == "flights-2013.onnx", "what the model is called, where there is no card"
    assert digest_of(found) == digest_of(bucket / "poc/flights-2013.onnx")
    assert s3.asked == ["/bucket/poc/flights-2013.onnx"]


def test_what_is_no_url_is_left_alone(tmp_path: Path) -> None:
    assert cache(tmp_path).local("models/flight_poc") == "models/flight_poc"
    assert not (tmp_path / "cache").exists()


def test_the_wrong_digest_keeps_nothing_and_names_both(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ConfigurationError) as said:
        cache(tmp_path).local(f"{web.url}/poc/model.onnx#sha256={wrong}")
    assert wrong in said.value.detail
    assert digest_of(bucket / "poc/model.onnx") in said.value.detail
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_model_that_was_replaced_beside_its_card_is_refused(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    (bucket / "poc/model.onnx").write_bytes(b"replaced")
    with pytest.raises(ConfigurationError, match=r"model\.onnx: what is there is not what"):
        cache(tmp_path).local(named(f"{web.url}/poc/card.json", bucket / "poc/card.json"))


def test_what_is_not_there_is_said(tmp_path: Path, web: ObjectServer, s3: ObjectServer) -> None:
    for url in (f"{web.url}/no/model.onnx", "s3://bucket/no/model.onnx"):
        with pytest.raises(ConfigurationError, match=f"{url} does not exist"):
            cache(tmp_path).local(f"{url}#sha256={'0' * 64}")


def test_credentials_that_are_wrong_or_missing_are_said_with_what_it_takes(
    tmp_path: Path, bucket: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = named("s3://bucket/poc/model.onnx", bucket / "poc/model.onnx")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ConfigurationError, match=r"(?s)credentials were rejected.*AWS_ACCESS_KEY_ID"):
        cache(tmp_path).local(source)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr(fetch, "RETRIES", 0)
    # Where there is no environment, a machine's role is asked for; this one has none, and is not asked in earnest.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    with pytest.raises(ConfigurationError, match=r"no credentials were found: AWS_ACCESS_KEY_ID and"):
        cache(tmp_path).local(source)
    assert KEY_ID in credentials(s3).values()


def test_a_server_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RETRIES", 0)
    with pytest.raises(ConfigurationError, match=r"cannot be fetched: .*127\.0\.0\.1:9"):
        cache(tmp_path).local(f"http://127.0.0.1:9/model.onnx#sha256={'0' * 64}")


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path: Path, bucket: Path, s3: ObjectServer) -> None:
    s3.cut_after = 100_000
    source = named("s3://bucket/poc/model.onnx", bucket / "poc/model.onnx")
    assert digest_of(Path(cache(tmp_path).local(source))) == digest_of(bucket / "poc/model.onnx")
    assert len(s3.asked) == 2


def test_what_was_damaged_on_this_machine_is_fetched_again(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    source = named(f"{web.url}/poc/card.json", bucket / "poc/card.json")
    model = Path(cache(tmp_path).local(source)) / "model.onnx"
    model.write_bytes(b"damaged")
    cache(tmp_path).local(source)
    assert digest_of(model) == digest_of(bucket / "poc/model.onnx")


HOLDER = """
import sys, time
from pathlib import Path
from understudy.inference.fetch import ModelCache
print(ModelCache(Path(sys.argv[1]), max_bytes=2**30, timeout_s=5).local(sys.argv[2]), flush=True)
time.sleep(60)
"""


def test_the_cache_is_bounded_and_what_a_process_uses_stays(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    """One model is held by a process that lives; then there is no room for another, until that process is dead."""
    poc, better = (named(f"{web.url}/{name}/model.onnx", bucket / name / "model.onnx") for name in ("poc", "better"))
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "cache"), poc]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        small = cache(tmp_path, int(1.5 * SIZE))
        with pytest.raises(ConfigurationError, match="UNDERSTUDY_MODEL_CACHE_MAX_MIB"):
            small.local(better)
        assert held.exists()
        holder.kill()
    there = Path(small.local(better))
    assert there.exists()
    assert not held.exists(), "the longest unused went"


def test_processes_that_want_the_same_model_fetch_it_once(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    source = named(f"{web.url}/poc/card.json", bucket / "poc/card.json")
    command = [sys.executable, "-c", HOLDER.replace("time.sleep(60)", ""), str(tmp_path / "cache"), source]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=30)[0].splitlines()[-1] for process in several}
    assert [process.returncode for process in several] == [0, 0, 0]
    assert len(said) == 1
    assert len(web.asked) == 2


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    left = tmp_path / "cache" / f"{fetch.UNFINISHED}x"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    cache(tmp_path).local(named(f"{web.url}/poc/model.onnx", bucket / "poc/model.onnx"))
    assert not left.exists()


def test_a_card_that_is_none_is_said(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    (bucket / "poc/card.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ConfigurationError, match="is not a model card"):
        cache(tmp_path).local(named(f"{web.url}/poc/card.json", bucket / "poc/card.json"))


def test_a_long_download_says_how_far_it_is(
    tmp_path: Path, bucket: Path, web: ObjectServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "PROGRESS_S", 0.0)
    cache(tmp_path).local(named(f"{web.url}/poc/model.onnx", bucket / "poc/model.onnx"))
    out, said = capfd.readouterr()
    assert out == "", "a command may be printing JSON"
    assert "percent=" in said
    assert "fetched" in said


def test_a_lock_that_another_process_holds_is_waited_for(tmp_path: Path, bucket: Path, web: ObjectServer) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    source = named(f"{web.url}/poc/model.onnx", bucket / "poc/model.onnx")
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = f"import fcntl; flock = fcntl.flock; fcntl.flock = lambda *a: (print('waits', flush=True), flock(*a)); {HOLDER}"
        command = [sys.executable, "-c", code.replace("time.sleep(60)", ""), str(folder), source]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert other.stdout is not None
        assert other.stdout.readline() == "waits\n"
        assert web.asked == []
    assert other.communicate(timeout=30)[0]
    assert web.asked == ["/poc/model.onnx"]
