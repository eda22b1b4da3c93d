from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from knowngood.config.words import as_command, as_share, for_caller


def test_threads_speak_the_language_of_the_caller() -> None:
    def said() -> str:
        return for_caller("alpha=0.1", "--alpha 0.1")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(said).result() == "alpha=0.1"
        with as_command():
            assert pool.submit(said).result() == "--alpha 0.1"
            with as_command():
                assert said() == "--alpha 0.1"
            assert said() == "--alpha 0.1"
        assert pool.submit(said).result() == "alpha=0.1"


def test_a_percentage_is_answered_with_the_share() -> None:
    assert as_share("5") == as_share(5) == "; for 5 % give 0.05"
    assert as_share("5%") == "; for 5 % give 0.05"
    assert as_share(" .5 % ") == "; for 0.5 % give 0.005"
    assert [as_share(text) for text in ("0.5", "0", "-5", "500", "nan", "five", "%")] == [""] * 7
