"""The clock that tests turn, and the bus in memory: what the other tests rely on."""

import math
import random
import signal
import subprocess

import pytest
from memory_bus import Network
from virtual_clock import VirtualClock


@pytest.fixture
def clock():
    with VirtualClock() as clock:
        yield clock


def test_time_jumps_to_the_earliest_sleeper_and_computing_takes_none(clock):
    seen, begun_s = [], clock.now()

    def sleeper(name, period_s, times):
        for _ in range(times):
            clock.sleep(period_s)
            seen.append((name, round(clock.now() - begun_s, 6)))

    clock.thread(lambda: sleeper("slow", 3600.0, 2), "slow").start()
    quick = clock.thread(lambda: sleeper("quick", 1500.0, 3), "quick")
    quick.start()
    quick.join()
    assert clock.now() == begun_s + 4500.0 and not quick.is_alive()
    assert seen == [("quick", 1500.0), ("quick", 3000.0), ("slow", 3600.0), ("quick", 4500.0)]


def test_every_run_is_the_same():
    def run():
        rng, seen = random.Random(3), []
        with VirtualClock() as clock:

            def work(name):
                for _ in range(20):
                    clock.sleep(rng.choice((0.0, 0.001, 0.002)))
                    seen.append((name, clock.now()))

            for name in "abc":
                clock.thread(lambda name=name: work(name), name).start()
            clock.sleep(1.0)
        return seen

    assert run() == run() and len(run()) == 60


def test_a_loop_that_polls_comes_to_its_end(clock):
    until_s = clock.now() + 0.001
    while clock.now() < until_s:
        clock.sleep(0.0)


def test_a_wait_ends_when_its_condition_holds_or_its_time_is_up(clock):
    box = []
    clock.thread(lambda: (clock.sleep(0.5), box.append(1)), "giver").start()
    begun_s = clock.now()
    assert not clock.wait(lambda: box, begun_s + 0.2) and clock.now() == begun_s + 0.2
    assert clock.wait(lambda: box, begun_s + 9.0) and clock.now() == begun_s + 0.5


def test_a_stopped_process_is_never_scheduled_until_it_is_resumed(clock):
    ticks = []

    def tick(process):
        while True:
            ticks.append(clock.now())
            clock.sleep(0.1)

    process = clock.process(tick, "ticker")
    clock.sleep(0.25)
    process.strike(signal.SIGSTOP)
    clock.sleep(1.0)
    assert len(ticks) == 3 and process.is_alive()
    process.resume()
    clock.sleep(0.25)
    assert len(ticks) == 6, "at once, being late, and then every 0.1 s"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_runs_no_line_more_and_what_it_held_is_closed(clock, number):
    said = []

    def live(process):
        process.on_end.append(lambda: said.append("closed"))
        try:
            clock.sleep(math.inf)
        finally:
            said.append(f"no more than unwinding, at {'the end' if over else 'once'}")

    over = False
    process = clock.process(live, "victim")
    clock.sleep(0.1)
    process.strike(number)
    with pytest.raises(subprocess.TimeoutExpired):
        clock.process(lambda process: clock.sleep(9.0), "other").wait(timeout=1.0)
    assert process.poll() == process.wait() == -number and said == ["closed"]
    over = True


def test_sigterm_may_be_handled(clock):
    process = clock.process(lambda process: clock.wait(lambda: process.name == "told", math.inf), "untold")
    clock.sleep(0.1)
    process.on_terminate = lambda: setattr(process, "name", "told")
    process.terminate()
    assert process.wait(1.0) == 0


def test_an_interrupt_is_raised_where_it_waits(clock):
    caught = []

    def work():
        try:
            clock.sleep(60.0)
        except KeyboardInterrupt:
            caught.append(clock.now())

    thread = clock.thread(work, "worker")
    thread.start()
    clock.sleep(1.0)
    clock.interrupt(thread, KeyboardInterrupt())
    struck_s = clock.now()
    thread.join()
    assert caught == [struck_s]


def test_a_failure_of_a_participant_is_the_tests():
    with pytest.raises(ZeroDivisionError), VirtualClock() as clock:
        clock.thread(lambda: 1 / 0, "broken").start()
        clock.sleep(60.0)


def test_a_deadlock_is_told():
    with pytest.raises(AssertionError, match="everybody waits"), VirtualClock() as clock:
        clock.wait(lambda: False, math.inf)


def test_when_the_test_is_over_so_is_the_clock():
    with VirtualClock() as clock:
        pass
    with pytest.raises(RuntimeError, match="over"):
        clock.sleep(1.0)


class Sample:
    """One without a record, as the services' are."""

    def __init__(self, text):
        self.text = text


def texts(samples):
    return [sample.text for sample in samples]


def test_the_bus_delivers_the_newest(clock):
    network = Network(clock)
    ours, theirs = network.bus(clock.test), network.bus(clock.test)
    newest, all_of_them, own = (
        theirs.reader("a", Sample),
        theirs.reliable_reader("a", Sample),
        ours.reader("a", Sample, others_only=True),
    )
    other_topic, writer = theirs.reader("b", Sample), ours.writer("a", Sample)
    for text in ("one", "two"):
        writer.write(Sample(text))
    assert (texts(newest.take(9)), texts(all_of_them.take(9)), own.take(9), other_topic.take(9)) == (
        ["two"],
        ["one", "two"],
        [],
        [],
    )
    assert newest.take(9) == [] and len(writer.get_matched_subscriptions()) == 2
    (handle,) = newest.get_matched_publications()
    assert newest.get_matched_publication_data(
        handle
    ).participant_key == ours.key and "'test', process" in theirs.name_of(ours.key)
    assert own.get_matched_publications() == []


def test_the_bus_is_met_late_and_loses_what_the_test_says(clock):
    network = Network(clock)
    network.discovery_s = 0.2
    bus = network.bus(clock.test)
    reader, writer = bus.reliable_reader("a", Sample), bus.writer("a", Sample)
    writer.write(Sample("too early"))
    assert not writer.get_matched_subscriptions()
    clock.sleep(0.3)
    writer.write(Sample("met"))
    network.is_lost = lambda writer, reader: True
    writer.write(Sample("lost"))
    assert texts(reader.take(9)) == ["met"]


def test_who_leaves_the_bus_is_met_no_more(clock):
    network = Network(clock)
    reader = network.bus(clock.test).reliable_reader("a", Sample)

    def live(process):
        writer = network.bus(process).writer("a", Sample)
        clock.sleep(math.inf)
        writer.write(Sample("never"))

    process = clock.process(live, "writer")
    clock.sleep(0.1)
    assert len(reader.get_matched_publications()) == 1 and len(network.buses) == 2
    process.kill()
    assert reader.get_matched_publications() == [] and len(network.buses) == 1
    writer = network.bus(clock.test).writer("a", Sample)
    del writer
    assert not hasattr(reader.take(1)[0], "text"), "DDS tells of a writer that has left by a sample without data"
