"""The one-slot mailbox and the thread behind it."""

import threading

import pytest

from metro_ros.ros.mailbox import Mailbox
from metro_ros.ros.worker import Worker

PATIENCE_S = 20


def test_the_newest_replaces_the_older_and_that_is_told():
    box: Mailbox[int] = Mailbox()
    assert [box.put(1), box.put(2), box.put(3)] == [False, True, True]
    assert box.take() == 3
    assert box.put(4) is False
    assert box.take() == 4


def test_take_waits_for_put():
    box: Mailbox[str] = Mailbox()
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(box.take()))
    thread.start()
    box.put("late")
    thread.join(PATIENCE_S)
    assert taken == ["late"]


def test_close_wakes_whoever_waits_and_forgets_the_rest():
    box: Mailbox[str] = Mailbox()
    taken: list[str | None] = []
    threads = [threading.Thread(target=lambda: taken.append(box.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    box.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert taken == [None, None, None]
    assert box.put("too late") is True and box.take() is None


def test_under_many_writers_every_item_is_taken_or_dropped_once_and_in_order():
    box: Mailbox[tuple[int, int]] = Mailbox()
    writers, each, last = 8, 2000, (-1, 0)
    dropped, taken = [0] * writers, []

    def write(writer: int) -> None:
        for number in range(each):
            dropped[writer] += box.put((writer, number))

    def read() -> None:
        while (item := box.take()) not in (None, last):
            taken.append(item)

    reader = threading.Thread(target=read)
    reader.start()
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    dropped_at_last = box.put(last)
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert len(taken) + sum(dropped) + dropped_at_last == writers * each
    for writer in range(writers):
        numbers = [number for who, number in taken if who == writer]
        assert numbers == sorted(set(numbers)), "an item came twice or out of order"


def test_the_worker_handles_only_the_newest_of_what_came_meanwhile():
    started, go_on, handled = threading.Event(), threading.Event(), []
    done = threading.Event()

    def handle(item: int) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        handled.append(item)
        if item == 9:
            done.set()

    worker = Worker(handle, pytest.fail)
    assert worker.put(0) is False
    assert started.wait(PATIENCE_S)
    assert [worker.put(item) for item in range(1, 10)] == [False] + [True] * 8
    go_on.set()
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert handled == [0, 9]


def test_the_worker_survives_what_goes_wrong_and_says_so():
    failures, handled = [], []
    failed, done = threading.Event(), threading.Event()

    def handle(item: str) -> None:
        if item == "bad":
            raise ValueError(item)
        handled.append(item)
        done.set()

    def remember(error: Exception) -> None:
        failures.append(error)
        failed.set()

    worker = Worker(handle, remember)
    worker.put("bad")
    assert failed.wait(PATIENCE_S)
    worker.put("good")
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert handled == ["good"]
    assert [str(error) for error in failures] == ["bad"]


def test_stop_waits_for_the_item_at_hand():
    started, go_on, finished = threading.Event(), threading.Event(), []

    def handle(item: int) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        finished.append(item)

    worker = Worker(handle, pytest.fail)
    worker.put(1)
    assert started.wait(PATIENCE_S)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    assert finished == []
    go_on.set()
    stopper.join(PATIENCE_S)
    assert finished == [1] and not stopper.is_alive()
