"""The process that does what may take for ever: limits that hold in every thread, and an end with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastsample.answers.child import Child
from fastsample.answers.extractors import extractor_of, regex

SLOW = r"(a+)+$"
ENDLESS = "a" * 50 + "!"


def test_a_pattern_without_end_is_an_error_in_any_thread():
    """Rule, value and remedy after the time, off the main thread too; the next text is read."""
    extract, found = regex(SLOW, seconds=0.5), []

    def read():
        with pytest.raises(
            ValueError, match=r"must be done with a text within 0\.5 s, '\(a\+\)\+\$' was not; a repetition"
        ):
            extract(ENDLESS)
        found.append(extract("aaa"))

    start = time.monotonic()
    thread = threading.Thread(target=read)
    thread.start()
    thread.join(30)
    assert found == ["aaa"]
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"=> (\w+)", "=> a => b", "b"),
        (r"\d+", "1 22 x", "22"),
        (r"x(y)?", "x", None),
        ("q*", "abc", ""),
        (r"(?s).+", "ä\n\ud800\0\u2028'\"", "ä\n\ud800\0\u2028'\""),
        ("no", "yes", None),
    ],
)
def test_patterns_find_what_they_find(pattern, text, answer):
    """The last match, its first group; any text goes to the process and back."""
    assert extractor_of(f"regex:{pattern}")(text) == answer


def test_many_threads_ask_one_child():
    """Every thread has its own answer."""
    child = Child("def answer(n): return n * n")
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: child.ask(n, 20)})) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n * n for n in range(20)}
    child.end()


def test_a_thread_that_ends_does_not_take_the_child_with_it():
    """The kernel's rule is about the thread that started the process: not one that asks."""
    child, found = Child("import os\ndef answer(n): return os.getpid()"), []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(child.ask(0, 20)))
        thread.start()
        thread.join()
        time.sleep(0.1)
    assert len(set(found)) == 1
    child.end()


def test_what_goes_wrong_in_the_child_is_no_answer():
    """An error, an end of the process; a child that cannot start is told."""
    child = Child("import os\ndef answer(n): return os._exit(3) if n else 1 / 0")
    assert [child.ask(n, 20) for n in (0, 1, 0)] == [None] * 3
    child.end()
    with pytest.raises(ChildProcessError):
        Child("import no_such_module").ask(0, 1)


WORK = {
    "regex": ("import re", f"re.fullmatch({SLOW!r}, {ENDLESS!r})"),
    "power": ("", "9**9**9**9"),
    "loop": ("", "[0 for _ in iter(int, 1)]"),
}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to look for the child")
@pytest.mark.parametrize("work", WORK)
def test_no_child_outlives_a_killed_parent(work):
    """In the middle of an operation that never comes back to Python."""
    imports, operation = WORK[work]
    mark = f"mark_{os.getpid()}_{work}"
    source = f"{imports}\n{mark} = 0\ndef answer(n):\n    return str({operation})"
    script = f"from fastsample.answers.child import Child\nChild({source!r}).ask(0, 60)"
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        wait_for(lambda: len(processes_with(mark)) == 2)
        time.sleep(0.5)  # it computes
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_with(mark))


def processes_with(mark):
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [entry] if mark.encode() in entry.read_bytes() else []
        except OSError:  # noqa: PERF203
            continue
    return found


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_timer_ends_a_child_whose_parent_is_gone():
    """Where the kernel has no such rule: the process ends by itself soon after its time, whatever it is doing."""
    child = Child("def answer(n): return str(9**9**9**9)")
    with subprocess.Popen(
        [sys.executable, "-c", child._source, str(os.getpid())], stdin=-1, stdout=-1, text=True
    ) as alone:
        assert alone.stdout.readline() == '"ready"\n'
        alone.stdin.write("[0, 0.3]\n")
        alone.stdin.flush()
        assert alone.wait(20) == -signal.SIGALRM


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_a_question_is_asked_has_a_child_of_its_own():
    """The lock that another thread holds is not carried over, and nobody gets the other's reply."""
    child, found = Child("import time\ndef answer(n):\n    time.sleep(n)\n    return n"), []
    assert child.ask(0, 20) == 0
    thread = threading.Thread(target=lambda: found.append(child.ask(0.5, 20)))
    thread.start()
    while not child._lock.locked():
        time.sleep(0.01)
    forked = os.fork()
    if forked == 0:
        signal.alarm(60)  # ends it where it would wait for ever
        os._exit(child.ask(0.25, 20) != 0.25)
    thread.join()
    assert os.waitpid(forked, 0)[1] == 0
    assert found == [0.5]
    child.end()
