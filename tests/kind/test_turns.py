"""Turns of stories that run beside each other; two objects of one folder stand for two processes."""

import threading
import time
from pathlib import Path

import pytest

from tests.kind.turns import Turns

SOON_S = 0.5


@pytest.fixture
def two(tmp_path: Path) -> tuple[Turns, Turns]:
    return Turns(tmp_path, "part"), Turns(tmp_path, "part")


def test_many_share(two: tuple[Turns, Turns]) -> None:
    with two[0].shared(SOON_S), two[1].shared(SOON_S):
        pass


def test_who_is_alone_keeps_all_out(two: tuple[Turns, Turns]) -> None:
    with two[0].alone(SOON_S):
        with pytest.raises(TimeoutError, match="part: other stories"), two[1].shared(SOON_S):
            pass
        with pytest.raises(TimeoutError), two[1].alone(SOON_S):
            pass
    with two[1].alone(SOON_S):
        pass


def test_nobody_is_alone_while_another_shares(two: tuple[Turns, Turns]) -> None:
    with two[0].shared(SOON_S), two[1].shared(SOON_S):
        with pytest.raises(TimeoutError), two[1].alone(SOON_S):
            pass
        with pytest.raises(TimeoutError), two[0].alone(SOON_S):
            pass


def test_who_shares_may_be_alone_for_a_while_and_shares_again(two: tuple[Turns, Turns]) -> None:
    with two[0].shared(SOON_S):
        with two[0].alone(SOON_S), pytest.raises(TimeoutError), two[1].shared(SOON_S):
            pass
        with two[1].shared(SOON_S):
            pass
        with pytest.raises(TimeoutError), two[1].alone(SOON_S):
            pass
    with two[1].alone(SOON_S):
        pass


def test_nobody_joins_while_somebody_waits_to_be_alone(two: tuple[Turns, Turns], tmp_path: Path) -> None:
    waiting, third = two[1], Turns(tmp_path, "part")
    alone = threading.Event()

    def wait() -> None:
        with waiting.alone(30):
            alone.set()

    def join_until_refused() -> None:
        while time.monotonic() < until:
            with third.shared(SOON_S):
                pass

    with two[0].shared(SOON_S):
        thread = threading.Thread(target=wait)
        thread.start()
        until = time.monotonic() + 30
        with pytest.raises(TimeoutError):
            join_until_refused()
        assert not alone.is_set()
    assert alone.wait(30)
    thread.join(30)
