"""The mailbox of newest items and the thread behind it."""

import threading

import pytest

from metro_ros.ros.mailbox import Mailbox
from metro_ros.ros.worker import Worker

PATIENCE_S = 20


def test_the_newest_replaces_the_older_and_that_is_told():
    box: Mailbox[str, int] = Mailbox()
    assert [box.put("a", 1), box.put("a", 2), box.put("a", 3)] == [False, True, True]
    assert box.take() == {"a": 3}
    assert box.put("a", 4) is False
    assert box.take() == {"a": 4}


def test_no_sender_displaces_another_and_all_are_taken_at_once():
    box: Mailbox[str, int] = Mailbox()
    assert [box.put("b", 1), box.put("a", 2), box.put("b", 3)] == [False, False, True]
    assert list(box.take().items()) == [("b", 3), ("a", 2)], "who has waited longest comes first"
    assert box.put("a", 4) is False


def test_take_waits_for_put():
    box: Mailbox[str, str] = Mailbox()
    taken: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: taken.append(box.take()))
    thread.start()
    box.put("a", "late")
    thread.join(PATIENCE_S)
    assert taken == [{"a": "late"}]


def test_close_wakes_whoever_waits_and_forgets_the_rest():
    box: Mailbox[str, str] = Mailbox()
    taken: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: taken.append(box.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    box.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert taken == [{}, {}, {}]
    assert box.put("a", "too late") is True and box.take() == {}


def test_under_many_writers_every_item_is_taken_or_dropped_once_and_in_order():
    box: Mailbox[int, tuple[int, int]] = Mailbox()
    writers, each, last = 8, 2000, -1
    dropped, taken = [0] * writers, []

    def write(writer: int) -> None:
        for number in range(each):
            sender = writer // 2  # two threads a sender
            dropped[writer] += box.put(sender, (writer, number))

    def read() -> None:
        while last not in (items := box.take()):
            taken.extend(items.values())
        taken.extend(item for sender, item in items.items() if sender != last)

    reader = threading.Thread(target=read)
    reader.start()
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    box.put(last, (last, 0))
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert len(taken) + sum(dropped) == writers * each
    for writer in range(writers):
        numbers = [number for who, number in taken if who == writer]
        assert numbers == sorted(set(numbers)), "an item came twice or out of order"


def test_the_worker_handles_only_the_newest_of_what_came_meanwhile():
    started, go_on, handled = threading.Event(), threading.Event(), []
    done = threading.Event()

    def handle(items: dict[str, int]) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        handled.append(items)
        if "a" in items and items["a"] == 9:
            done.set()

    worker = Worker(handle, pytest.fail)
    assert worker.put("a", 0) is False
    assert started.wait(PATIENCE_S)
    assert worker.put("b", 5) is False
    assert [worker.put("a", item) for item in range(1, 10)] == [False] + [True] * 8
    go_on.set()
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert handled == [{"a": 0}, {"b": 5, "a": 9}]


def test_the_worker_survives_what_goes_wrong_and_says_so():
    failures, handled = [], []
    failed, done = threading.Event(), threading.Event()

    def handle(items: dict[str, str]) -> None:
        if items["a"] == "bad":
            raise ValueError(items["a"])
        handled.append(items["a"])
        done.set()

    def remember(error: Exception) -> None:
        failures.append(error)
        failed.set()

    worker = Worker(handle, remember)
    worker.put("a", "bad")
    assert failed.wait(PATIENCE_S)
    worker.put("a", "good")
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert handled == ["good"]
    assert [str(error) for error in failures] == ["bad"]


def test_stop_waits_for_the_items_at_hand():
    started, go_on, finished = threading.Event(), threading.Event(), []

    def handle(items: dict[str, int]) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        finished.append(items["a"])

    worker = Worker(handle, pytest.fail)
    worker.put("a", 1)
    assert started.wait(PATIENCE_S)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    assert finished == []
    go_on.set()
    stopper.join(PATIENCE_S)
    assert finished == [1] and not stopper.is_alive()
