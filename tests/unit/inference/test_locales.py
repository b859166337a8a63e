"""Errors about locales that a model needs."""

from understudy.inference.locales import missing_locale

RUNTIME = "Locale::Locale() Failed to construct locale with name:{}:locale::facet::_S_create_c_locale name not valid:x"


def test_a_usual_name_comes_with_the_command() -> None:
    said = missing_locale(RUNTIME.format("de_DE.UTF-8"))
    assert said is not None
    assert "`apt-get install locales && localedef -i de_DE -f UTF-8 de_DE.UTF-8`" in said


def test_a_name_with_a_command_in_it_is_not_offered_as_one() -> None:
    said = missing_locale(RUNTIME.format("en_US.UTF-8;reboot"))
    assert said is not None
    assert "apt-get" not in said


def test_another_error_is_not_about_a_locale() -> None:
    assert missing_locale("Type Error: Type parameter (T)") is None
