"""Code of a model against tests of ours: programs that are right, verdicts that cannot be forged, walls that hold.

Every sentence of SAYS and of UNSAFE is one of docs/security.md, and holds.
"""
# ruff: noqa: E501, PERF203

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fastsample.scoring import sandbox
from fastsample.scoring.base import Candidate, numbers_of
from fastsample.scoring.verifiers import PythonTests, scorer_of

DOCS = " ".join((Path(__file__).parents[2] / "docs" / "security.md").read_text().split())
ADD = "assert add(1, 2) == 3"
needs_walls = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))


@pytest.fixture(params=[pytest.param(True, marks=needs_walls, id="walls"), pytest.param(False, id="no-walls")])
def is_jailed(request):
    return request.param


def passes(code, tests=ADD, **settings):
    scorer = PythonTests(tests, **settings)
    return numbers_of(scorer, [Candidate("q", code, None)]) == [(1.0,)]


RIGHT = {
    "future": ("from __future__ import annotations\ndef add(a: No, b: Such) -> Name: return a + b", ADD),
    "main": ("import sys\ndef add(a, b): return a + b\nif __name__ == '__main__':\n    sys.exit(0)", ADD),
    "values": (
        "def same(x): return x",
        "import math\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
        "for x in (None, True, -1, 10**5000, 1.5, math.inf, 2j, 'ä\\ud800', b'\\0', [1, (2, {3})], {(1, 2): {'a': []}},\n"
        "          frozenset({1}), range(3), Fraction(1, 3), Decimal('0.10')):\n"
        "    assert same(x) == x and type(same(x)) is type(x), x\nassert math.isnan(same(math.nan))",
    ),
    "errors": (
        "class Empty(KeyError): pass\nclass Full(Empty): pass\n"
        "def f(x):\n    if x < 0: raise ValueError('negative', x)\n    raise Full('full')",
        "try: f(-1)\nexcept ValueError as e: assert e.args == ('negative', -1)\nelse: assert False\n"
        "for kind in (Full, Empty, KeyError, LookupError):\n"
        "    try: f(1)\n    except kind as e: assert str(e) == \"'full'\"\n    else: assert False",
    ),
    "objects": (
        "from collections import namedtuple\nfrom dataclasses import dataclass\n"
        "@dataclass(order=True)\nclass P:\n    x: int\n    def __add__(self, o): return P(self.x + o.x)\n"
        "    def twice(self): return P(2 * self.x)\n"
        "class Stack(list):\n    def push(self, x): self.append(x)\n"
        "T = namedtuple('T', 'a b')\n",
        "assert P(1) + P(2) == P(3) == P(x=3) and P(1) < P(2) and P(1) != P(2) and P(2).twice().x == 4\n"
        "s = Stack()\ns.push(1)\ns.push('a')\nassert len(s) == 2 and s[1] == 'a' and list(s) == [1, 'a'] and s\n"
        "assert s == [1, 'a'] and 'a' in s and not Stack() and isinstance(s, Stack) and not isinstance(3, Stack)\n"
        "s[0] = 5\ndel s[1]\nassert s == [5]\ns.name = 'n'\nassert s.name == 'n'\n"
        "assert T(1, 2) == (1, 2) and T(1, 2).b == 2 and str(P(1)) == 'P(x=1)'",
    ),
    "generators": (
        "def up():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "from itertools import islice\nassert list(islice(up(), 4)) == [0, 1, 2, 3]\ng = up()\nassert next(g) == 0 and next(g) == 1",
    ),
    "callbacks": (
        "def twice(f, x): return f(f(x))\ndef safe(f):\n    try: return f()\n    except ZeroDivisionError: return 'zero'",
        "assert twice(lambda x: x * x, 3) == 81\nassert safe(lambda: 1 / 0) == 'zero'\nassert safe(int) == 0",
    ),
    "in-place": (
        "def order(x): x.sort()\ndef clear(d): d.clear()",
        "x, d = [3, 1, 2], {1: 2}\norder(x)\nclear(d)\nassert x == [1, 2, 3] and d == {}",
    ),
    "prints": (
        "def hello(): print('hello')",
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n    hello()\n"
        "assert out.getvalue() == 'hello\\n'",
    ),
    "imports": ("def sum(x): return 42\nsize = 3", "from answer import sum, size\nassert sum([]) == 42 and size == 3"),
    "unittest": (
        "def add(a, b): return a + b",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 2), 3)\n"
        "if __name__ == '__main__':\n    unittest.main()",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name, is_jailed):
    """What a program may hold, and what tests may ask of it."""
    assert passes(*RIGHT[name], is_jailed=is_jailed)


@pytest.mark.parametrize("name", ["errors", "objects", "callbacks", "imports", "unittest", "generators"])
def test_the_same_tests_can_fail(name):
    """The twin: an answer that defines nothing passes none of them."""
    assert not passes("", RIGHT[name][1], is_jailed=False)


FORGED = {
    "own file": (
        "import sys\ndef add(a, b): return 0\nsource = open(sys.argv[0]).read()\n"
        "word = source[source.rindex(\"write('\") + 7:][:32]\nsys.stdout.write(word); sys.stdout.flush()\n"
        "import os; os._exit(0)",
        ADD,
    ),
    "equal to all": (
        "class A:\n    def __eq__(self, o): return True\n    __hash__ = None\n"
        "    def __rsub__(self, o): return 0\n    def __sub__(self, o): return 0\n    def __abs__(self): return 0\n"
        "    def __lt__(self, o): return True\n    def __contains__(self, o): return True\n"
        "    def __iter__(self): return iter(())\ndef add(a, b): return A()",
        ["assert add(1, 2) == 3", "assert 3 == add(1, 2)", "assert abs(add(1, 2) - 3) < 1", "assert 3 in add(1, 2)",
         "assert add(1, 2) < 4", "assert not add(1, 2) != 3", "assert {add(1, 2)} == {3}", "assert [add(1, 2)] == [3]"],
    ),
    "a builtin of its own": (
        "def abs(x): return 0\ndef sum(x): return 3\ndef isinstance(a, b): return True\ndef add(a, b): return 9",
        ["assert abs(add(1, 2) - 3) < 1", "assert sum([add(1, 2)]) == 3", "assert isinstance(add(1, 2), str)"],
    ),
    "a module of its own": ("import math\nmath.isclose = lambda a, b: True\ndef add(a, b): return 9",
                            ["assert math.isclose(add(1, 2), 3)", "import math\nassert math.isclose(add(1, 2), 3)"]),
    "patched": (
        "import builtins, os, sys, operator, json\nbuiltins.AssertionError = builtins.Exception = type('E', (BaseException,), {})\n"
        "builtins.exec = builtins.compile = lambda *a, **k: None\nos._exit = sys.exit = lambda *a: None\n"
        "sys.excepthook = lambda *a: os._exit(0)\nsys.settrace(lambda *a: None)\noperator.eq = lambda a, b: True\n"
        "def add(a, b): return 4",
        ADD,
    ),
    "frames": (
        "import sys, gc\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        f.f_globals.update(ADD=3, FAILED=0)\n"
        "        for k, v in f.f_locals.items():\n            if k == 'self': v.encode = lambda x: True\n        f = f.f_back\n"
        "    for o in gc.get_objects():\n        if type(o) is dict and 'FAILED' in o: o['FAILED'] = 0\n    return True",
        ADD,
    ),
    "atexit": ("import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(0)", ADD),
    "leaves": ("import os\ndef add(a, b): os._exit(0)", ADD),
    "raises SystemExit": ("def add(a, b): raise SystemExit(0)", ADD),
    "raises a class called SystemExit": (
        "class SystemExit(BaseException): pass\nclass SkipTest(Exception): pass\n"
        "def add(a, b): raise SystemExit(0)\ndef skip(): raise SkipTest('x')",
        [ADD, "import unittest\nclass T(unittest.TestCase):\n    def test(self): skip()\nunittest.main()"],
    ),
    "ends the loop": ("def add(a, b): raise StopIteration", "assert all(map(lambda x: add(x, 2) == x + 2, [1, 2]))"),
    "empties what it is given": ("def order(x):\n    x.clear()\n    return []", "d = [3, 1]\nassert order(d) == sorted(d)"),
    "talks": (
        "import os, json\n"
        "for message in (['', 'value', None], ['', 'value', True], ['', 'ask', 0, []], ['', 'stop'], 'ready', 0, [],\n"
        "                ['', 'raise', ['error', 'SystemExit'], [0]], ['', 'value', ['function', 0]], ['passed'] * 3):\n"
        "    data = json.dumps(message).encode()\n"
        "    for fd in range(256):\n"
        "        try: os.write(fd, len(data).to_bytes(4, 'big') + data)\n        except OSError: pass\n"
        "def add(a, b): return 4",
        ADD,
    ),
    "talks nonsense": (
        "import os\nfor fd in range(256):\n    try: os.write(fd, b'\\xff' * 100)\n    except OSError: pass", ADD),
    "a thread": (
        "import threading, os, time\ndef go():\n    while True:\n        for fd in range(256):\n"
        "            try: os.write(fd, b'\\0\\0\\0\\4true')\n            except OSError: pass\n        time.sleep(.01)\n"
        "threading.Thread(target=go, daemon=True).start()\ndef add(a, b):\n    time.sleep(.1)\n    return 4",
        ADD,
    ),
    "a fork": ("import os\nif os.fork(): os._exit(0)\ndef add(a, b): return 4", ADD),
    "kills its group": ("import os, signal\ndef add(a, b):\n    os.killpg(0, signal.SIGKILL)", ADD),
    "a deep answer": ("def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", ADD),
    "a long answer": ("def add(a, b): return 'x' * (1 << 25)", ADD),
    "an endless object": ("class A:\n    def __getattr__(self, n): return self\n    def __call__(self, *a): return self\n"
                          "    def __iter__(self): return self\n    def __next__(self): return self\n"
                          "add = A()", ADD),
}  # fmt: skip
CASES = [(n, t) for n, (_, tests) in FORGED.items() for t in (tests if isinstance(tests, list) else [tests])]


@pytest.mark.parametrize(("name", "tests"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_verdict_is_not_forged(name, tests, is_jailed):
    """None of these is right, whatever it does to its own process or says to the tests'."""
    assert not passes(FORGED[name][0], tests, is_jailed=is_jailed, seconds=2)


# Sentences of docs/security.md, each with code that tries and tests that see what came of it.
SAYS = {
    "The environment is empty.": ("import os\ndef f(): return dict(os.environ)", "assert f() == {}"),
    "It runs as `nobody` where you are root": ("import os\ndef f(): return os.getuid()", "assert f() == {uid}"),
    "without any privilege": (
        "import ctypes\ndef f():\n    h, d = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "    return ctypes.CDLL(None).capget(h, d), list(d)",
        "assert f() == (0, [0] * 6)",
    ),
    "and cannot get one in a namespace of its own": (
        "import ctypes\ndef f(): return [ctypes.CDLL(None).unshare(n) for n in (1 << 28, 1 << 17, 1 << 30)]",
        "assert f() == [-1, -1, -1]",
    ),
    "It sees no process but its own": (
        "import os\ndef f():\n    found = []\n    for n in range(1, 40000):\n        try: os.kill(n, 0)\n"
        "        except ProcessLookupError: continue\n        except PermissionError: pass\n        found.append(n)\n"
        "    return found, os.getpid(), os.path.exists('/proc/self')",
        "assert f() in (([1, 2], 2, False), ([2], 2, False))",
    ),
    "and can neither end nor read the one above it": (
        "import ctypes, os\ndef f():\n    for s in (9, 19, 15):\n        try: os.kill(1, s)\n        except OSError: pass\n"
        "    return ctypes.CDLL(None).ptrace(16, 1, None, None)",
        "assert f() == -1",
    ),
    "It reads no file but Python's own libraries and the system's": (
        "import os\ndef f(names):\n    return [n for n in names if os.path.exists(n)], sorted(os.listdir('/'))",
        "found, top = f([{here!r}, {tests!r}, '/etc/passwd', '/proc', '/sys', '/run', '/bin/sh', '/usr/bin', '/var'])\n"
        "assert found == [], found\nassert set(top) <= {{'dev', 'tmp', 'lib', 'lib32', 'lib64', 'usr', *{tops!r}}}, top",
    ),
    "which it cannot change": (
        "import os\ndef f():\n    done = []\n    for place in (os.path.dirname(os.__file__), '/', '/dev', '/usr', '/lib'):\n"
        "        try: open(place + '/written', 'w')\n        except OSError: continue\n        done.append(place)\n"
        "    return done",
        "assert f() == []",
    ),
    "It writes to /tmp alone, 16 MB in memory": (
        "def f():\n    for n in range(100):\n        try: open(f'/tmp/{n}', 'wb').write(b'x' * (1 << 20))\n"
        "        except OSError: break\n    return n",
        "assert 10 < f() < 17",
    ),
    "starts no program": (
        "import os, subprocess, sys\ndef f():\n    for name in ('/bin/sh', sys.executable, '/usr/bin/env'):\n"
        "        try: return subprocess.run([name])\n        except OSError: pass\n    return 'none'",
        "assert f() == 'none'",
    ),
    "There is no network": (
        "import socket\ndef f():\n    done = []\n    for kind, place in ((2, ('127.0.0.1', {port})), (1, {abstract!r})):\n"
        "        try: socket.socket(kind).connect(place)\n        except OSError: continue\n        done.append(place)\n"
        "    return done",
        "assert f() == []",
    ),
    "It holds no open file of yours": (
        "import os, stat\ndef f():\n    found = []\n    for n in range(1024):\n        try: s = os.fstat(n)\n"
        "        except OSError: continue\n        found.append(stat.S_IFMT(s.st_mode))\n    return sorted(found)",
        "import stat\nassert f() == sorted([stat.S_IFCHR] * 3 + [stat.S_IFSOCK])",
    ),
    "At most 32 processes and threads": (
        "import os, time\ndef f():\n    for n in range(200):\n        try:\n            if not os.fork(): time.sleep(9)\n"
        "        except OSError: break\n    return n",
        "assert 10 < f() < 33",
    ),
}


@needs_walls
@pytest.mark.parametrize("sentence", SAYS)
def test_what_the_code_cannot_do_behind_walls(sentence, tmp_path):
    """Every line of the docs, tried."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0fastsample-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        tests = tmp_path / "tests.py"
        tests.write_text("secret = 1")
        code, check = (part.replace("{port}", str(server.getsockname()[1])) for part in SAYS[sentence])
        tops = [Path(p).parts[1] for p in [sys.base_prefix, *sys.path] if len(Path(p).parts) > 1]
        values = {"here": __file__, "tests": str(tests), "tops": tops, "uid": os.getuid() or 65534}
        check = check.format(**values) if "{" in check and sentence != "The environment is empty." else check
        assert passes(code.replace("{abstract!r}", repr(name)), check)
    assert sentence in DOCS


UNSAFE = {
    "it can read and change every file that you can": (
        "def f(name):\n    open(name, 'a').write('changed')\n    return open(name).read()",
        "assert f({file!r}) == 'mine, changed'",
    ),
    "use the network": (
        "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}))\n    return True",
        "assert f()",
    ),
    "start programs": (
        "import subprocess, sys\ndef f(): return subprocess.run([sys.executable, '-c', 'exit(7)']).returncode",
        "assert f() == 7",
    ),
    "end your processes": (
        "import os\ndef f():\n    os.kill({victim}, 9)\n    return True",
        "assert f()",
    ),
    "Its environment is empty too": ("import os\ndef f(): return set(os.environ)", "assert f() <= {{'LC_CTYPE'}}"),
}


@pytest.mark.parametrize("sentence", UNSAFE)
def test_what_the_code_can_do_without_walls(sentence, tmp_path):
    """The docs do not promise more than holds: each of these works."""
    file = tmp_path / "file"
    file.write_text("mine, ")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as victim,
    ):
        values = {"file": str(file), "port": server.getsockname()[1], "victim": victim.pid}
        code, tests = UNSAFE[sentence]
        code = code.replace("{port}", str(values["port"])).replace("{victim}", str(victim.pid))
        assert passes(code, tests.format(**values), is_jailed=False)
        assert (victim.poll() or victim.kill()) is None or sentence == "end your processes"
    assert sentence in DOCS


def processes_of(folder):
    """Those whose command line names the folder, and what they have made."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(str(folder)) in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


DAEMON = """
import os, time, ctypes
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
        time.sleep(60)
    os._exit(0)
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
def add(a, b): return a + b
"""


@needs_walls
@pytest.mark.parametrize("more", ["", "while True: pass", "os._exit(0)"])
def test_nothing_outlives_the_verdict(more, tmp_path, monkeypatch):
    """A daemon that left its session and its parents ends with the verdict."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert passes(DAEMON + more, seconds=1) is not bool(more)
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert "Nothing it started outlives the verdict" in DOCS


@needs_walls
def test_nothing_outlives_a_killed_parent(tmp_path):
    """The scoring process is killed in the middle, with a signal that it cannot hear."""
    script = (
        "import tempfile, sys\ntempfile.tempdir = sys.argv[1]\nfrom fastsample.scoring.sandbox import run_python\n"
        f"run_python({DAEMON!r} + 'while True: pass', '', 60, 512)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as parent:
        wait_for(lambda: len(processes_of(tmp_path)) == 5)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of(tmp_path))


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_time_counts_from_the_first_line_of_the_code(monkeypatch):
    """On a busy machine two interpreters take longer to start than short code may run."""
    assert passes("def add(a, b): return a + b", seconds=0.1, is_jailed=False)
    start = time.monotonic()
    assert not passes("while True: pass", seconds=0.2, is_jailed=False)
    assert time.monotonic() - start < 10


def test_without_walls_a_flag_is_asked_for(tmp_path, monkeypatch):
    """Where the system allows none, code runs only under the name that says so."""
    monkeypatch.setattr(
        "fastsample.scoring.verifiers.why_not", lambda: "this system allows no walls around a process (x)"
    )
    tests = tmp_path / "t.py"
    tests.write_text(ADD)
    with pytest.raises(ValueError, match=r"this system allows no walls.*python-unsafe:TESTS.py"):
        scorer_of(f"python:{tests}")
    scorer = scorer_of(f"python-unsafe:{tests}")
    assert scorer.name == f"python-unsafe:{tests}"
    assert numbers_of(scorer, [Candidate("q", "def add(a, b): return a + b", None)]) == [(1.0,)]


NO_WALLS = """
import ctypes, os, sys
uid, gid = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(1 << 28) == 0
for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
    open("/proc/self/" + name, "w").write(text)
open("/proc/sys/user/max_user_namespaces", "w").write("0")
from fastsample.scoring.sandbox import run_python, why_not
print(why_not())
try:
    run_python("def add(a, b): return a + b", "assert add(1, 2) == 3", 5, 512)
except OSError as error:
    print(error)
"""


@needs_walls
def test_walls_that_cannot_be_built_are_an_error_and_no_verdict():
    """On a system that forbids namespaces: a sentence, and no score of 0 that would blame the code."""
    done = subprocess.run([sys.executable, "-c", NO_WALLS], capture_output=True, text=True, check=True)
    reason, error = done.stdout.splitlines()
    assert reason == "this system allows no walls around a process (unshare: No space left on device)"
    assert "unshare: No space left on device" in error
