"""Settings come from the environment, one variable each; every limit is documented and refuses what makes no sense."""

import re
from pathlib import Path

import pydantic
import pytest
from pydantic_core import PydanticUndefined

from understudy.errors import ConfigurationError
from understudy.settings import Settings, read_settings

FIELDS = Settings.model_fields


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        monkeypatch.delenv(f"UNDERSTUDY_{name.upper()}", raising=False)


def test_nothing_needs_to_be_set() -> None:
    """Every field has a default, and says what it is for."""
    settings = Settings()

    assert settings.rollout_file == Path("rollout.yaml")
    for name, field in FIELDS.items():
        assert field.default is not PydanticUndefined, name
        assert field.description, name


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its name in capitals behind the prefix."""
    default = FIELDS[name].default
    text = "0.25" if isinstance(default, float) else "2048" if "bytes" in name else "17"
    monkeypatch.setenv(f"UNDERSTUDY_{name.upper()}", text)
    found = getattr(Settings(), name)

    assert str(found) in {text, f"{text}.0"}
    assert found != default


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.annotation in {int, float}])
@pytest.mark.parametrize("text", ["-1", "nan", "many", ""])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Negative, no number, and numbers that no limit can be; the variable's field is named."""
    monkeypatch.setenv(f"UNDERSTUDY_{name.upper()}", text)

    with pytest.raises(pydantic.ValidationError, match=name):
        Settings()


def test_every_variable_that_does_not_fit_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one line: its name, what it is, what it takes and what it is for."""
    monkeypatch.setenv("UNDERSTUDY_ROWS_MAX", "many")
    monkeypatch.setenv("UNDERSTUDY_CANDIDATE_TIMEOUT_SHARE", "1.5")

    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert caught.value.detail == (
        "UNDERSTUDY_ROWS_MAX is 'many': input should be a valid integer, unable to parse string as an integer "
        "(most rows in one request; more is 413); "
        "UNDERSTUDY_CANDIDATE_TIMEOUT_SHARE is '1.5': input should be less than 1 "
        "(share of the deadline after which the primary answers in place of the candidate)"
    )


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line does."""
    monkeypatch.setenv("UNDERSTUDY_ROLLOUT_FILE", "a.yaml")

    assert read_settings().rollout_file == Path("a.yaml")
    assert read_settings(rollout_file="b.yaml").rollout_file == Path("b.yaml")


def test_names_say_their_unit() -> None:
    """A time is in seconds, milliseconds or days, a size in rows, elements, bytes or MiB, and the name says which."""
    unitless = {"workers", "threads", "breaker_failures", "candidate_timeout_share"} | {
        "drift_line_factor",
        "drift_looks",
        "drift_features_max",
        "traffic_points_max",
    }
    units = (
        r"_(s|ms|days|bytes|mib|rows|chars|elements)(_|$)|^(rows|labels)_max$"
        r"|_connections_max$|_max_(mib|rows|labels|bytes|chars)$"
    )
    for name, field in FIELDS.items():
        if field.annotation in {int, float} and name not in unitless:
            assert re.search(units, name), name


def test_the_default_store_is_a_file_in_the_state_folder(tmp_path: Path) -> None:
    """As an absolute path, so that no worker looks elsewhere; a URL that is set is taken as it is."""
    assert Settings(state_dir=tmp_path).resolved_store_url() == f"sqlite:///{tmp_path}/understudy.db"
    assert Settings(state_dir=Path("here")).resolved_store_url() == f"sqlite:///{Path.cwd()}/here/understudy.db"
    assert Settings(store_url="postgresql://db/x").resolved_store_url() == "postgresql://db/x"


def test_settings_do_not_change_while_the_service_runs() -> None:
    """They are read once."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().rows_max = 1
