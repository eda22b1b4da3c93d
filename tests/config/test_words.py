from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from knowngood.config.words import as_command, for_caller


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
