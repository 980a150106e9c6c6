"""fastsample serve, as a process: it listens, ends when it is told to, and asks for a key where others can reach it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

from http_client import httpx
from typer.testing import CliRunner

from fastsample.cli import main

COMMAND = [sys.executable, "-c", "from fastsample.cli import main; main()", "serve"]


def test_it_serves_until_it_is_told_to_end(tiny_folder):
    """Its address is told; SIGTERM ends it cleanly."""
    words = ["--model", str(tiny_folder), "--port", "0", "--name", "tiny"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = ""
        while "/v1" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        url = re.search(r"http://127\.0\.0\.1:\d+", said)[0]
        body = {"model": "tiny@ahead:k=2", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 4}
        answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["message"]["content"] in ("4", "5")
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode in (0, -signal.SIGTERM), rest
    assert "Traceback" not in rest


def test_other_machines_need_a_key(tiny_folder, monkeypatch):
    """Refused without one; a taken port and a bad one are told too."""
    monkeypatch.delenv("FASTSAMPLE_SERVE_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        found = CliRunner().invoke(main, ["serve", "--model", str(tiny_folder), "--host", host])
        assert (found.exit_code, "clients must send a key; set FASTSAMPLE_SERVE_KEY" in found.output) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(main, ["serve", "--model", str(tiny_folder), "--port", port])
        assert (found.exit_code, f"cannot listen at 127.0.0.1, port {port}" in found.output) == (2, True)
    for words in (("--port", "70000"), ("--most", "0"), ("--engine", "openai")):
        assert CliRunner().invoke(main, ["serve", "--model", str(tiny_folder), *words]).exit_code == 2


def test_a_key_is_not_shown(tiny_folder):
    """Nowhere in what the command says."""
    words = ["--model", str(tiny_folder), "--port", "0", "--host", "0.0.0.0"]
    environment = os.environ | {"FASTSAMPLE_SERVE_KEY": "sk-9"}
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        said = ""
        while "/v1" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        port = re.search(r":(\d+)/v1", said)[1]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
        key = {"authorization": "Bearer sk-9"}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=key).status_code == 200
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=30)[0]
    assert "sk-9" not in said
