"""fastsample solve: what it prints, for people and for programs, its exit codes and its refusals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import bigram
import pytest
from signals import hear_ctrl_c
from typer.testing import CliRunner

import fastsample
from fastsample import __version__
from fastsample.cli import main

COMMAND = [sys.executable, "-c", "from fastsample.cli import main; main()"]


def run(*args, stdin=None):
    return CliRunner().invoke(main, ["solve", *map(str, args)], input=stdin)


def test_the_answer_comes_with_its_votes_and_its_cost(tiny_folder):
    """A row per temperature, a column per answer, the winner, and tokens a second; exit code 0."""
    done = run("2 + 2?", "-m", tiny_folder, "--rule", "majority")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["T", "4", "5", "tokens"] in lines
    assert ["0", "1", "·", "2"] in lines
    totals = next(line for line in lines if line[:1] == ["all"])
    assert int(totals[1]) + int(totals[2]) == 11
    assert int(totals[1]) > int(totals[2])
    assert f"answer  4  {totals[1]} of 11 votes" in done.output
    assert re.search(
        r"11 samples, 22 tokens in [\d.]+ s \([\d,]+ tokens/s\); 1 step after one prefill of 9", done.output
    )


def test_it_stops_early_and_says_what_that_saved(tiny_folder):
    """Without a rule: three votes ahead end it, and the saving is printed; a scorer chooses among all samples."""
    done = run("2 + 2?", "-m", tiny_folder, "--samples", 40)
    assert "Ahead(" in done.output
    assert re.search(r"stopping early saved about \d+% of the full budget's \d+ tokens", done.output), done.output
    chosen = json.loads(run("2 + 2?", "-m", tiny_folder, "--scorer", "exact:5", "--json").stdout)
    assert (chosen["rule"], chosen["status"], chosen["counted"]) == ("majority", "budget", 11)


def test_json_is_one_object_and_nothing_else(tiny_folder):
    """In a process of its own: standard output parses as one line of JSON and has every sample."""
    command = [*COMMAND, "solve", "2 + 2?", "-m", tiny_folder, "--rule", "majority", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    record = json.loads(done.stdout)
    assert record["answer"] == "4"
    assert record["votes"]["0"] == {"4": 1}
    assert record["model"] == str(tiny_folder)
    assert len(record["samples"]) == record["planned"] == 11
    assert sum(sample["tokens"] for sample in record["samples"]) == record["tokens"]
    assert "Traceback" not in done.stderr


def test_the_seed_fixes_the_samples(tiny_folder):
    """Equal seeds give equal texts, another seed others."""

    def texts(seed):
        done = run("2 + 2?", "-m", tiny_folder, "--json", "--samples", 20, "--seed", seed)
        return [sample["text"] for sample in json.loads(done.stdout)["samples"]]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)


def test_a_rule_stops_early_and_says_so(tiny_folder):
    """beta with the small start: fewer samples than planned, and its reason on the screen."""
    done = run("2 + 2?", "-m", tiny_folder, "--rule", "beta", "--waves", "--temperatures", "0.1", "--samples", 40)
    assert done.exit_code == 0, done.output
    assert "4 of 4 votes" in done.output
    assert "Beta" in done.output
    assert "stopping early saved about 90% of the full budget's" in done.output


def test_prepacked_weights_give_the_same_samples(tiny_folder):
    """--prepack changes the speed and no text of this model."""
    plain, packed = (
        [s["text"] for s in json.loads(run("2 + 2?", "-m", tiny_folder, "--json", *more).stdout)["samples"]]
        for more in ((), ("--prepack",))
    )
    assert plain == packed


def test_filters_reach_the_sampler(tiny_folder):
    """top_k 1 leaves one token, so that every temperature answers as temperature 0 does."""
    options = ("-m", tiny_folder, "--temperatures", "1.5,2", "--samples", 15, "--rule", "majority")
    done = run("2 + 2?", *options, "--top-k", 1)
    assert "answer  4  30 of 30 votes" in done.output
    free = run("2 + 2?", *options)
    assert "answer  4  30 of 30 votes" not in free.output


def test_no_answer_is_exit_code_1(tmp_path):
    """A model that only ever says "a": no number can be read."""
    folder = bigram.save_folder(tmp_path, bigram.WORDLESS)
    done = run("2 + 2?", "-m", folder, "--extractor", "number")
    assert done.exit_code == 1, done.output
    assert "no answer could be read" in done.output
    assert json.loads(run("2 + 2?", "-m", folder, "--extractor", "number", "--json").stdout)["answer"] is None


def test_texts_are_shown_on_request(tiny_folder):
    """--texts prints every sample under its temperature and number."""
    done = run("2 + 2?", "-m", tiny_folder, "--temperatures", "0", "--texts")
    assert "T 0, sample 1  4  2 tokens, eos\n4\n" in done.output


def test_a_question_comes_from_standard_input(tiny_folder):
    """- reads it; the prompt holds the template around it."""
    more = ("--json", "--temperatures", "0")
    piped = json.loads(run("-", "-m", tiny_folder, *more, stdin="2 + 2?\n").stdout)
    assert piped["question"] == "2 + 2?"
    longer = json.loads(run("2 + 2?", "-m", tiny_folder, *more, "--prompt-template", "Q: {question}").stdout)
    assert longer["prompt_tokens"] == piped["prompt_tokens"] + len("Q: ")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_bar_is_drawn_where_nobody_watches(more, tmp_path):
    """A prompt of three blocks, and output that is no terminal: not a word of reading it."""
    folder = bigram.save_folder(tmp_path, context=5000)
    done = run("x" * 1500, "-m", folder, "--temperatures", "0", *more)
    assert done.exit_code == 0, done.output
    assert "reading" not in done.output + done.stderr


def test_answers_are_text_and_no_markup(tmp_path):
    """What a model writes in square brackets is printed as it is."""
    loud = {bigram.ASSISTANT: {"[": 1.0}, "[": {"b": 1.0}, "b": {"]": 1.0}, "]": {bigram.END: 1.0}}
    folder = bigram.save_folder(tmp_path, loud)
    done = run("2 + 2?", "-m", folder, "--temperatures", "0", "--extractor", "last-line", "--texts")
    assert done.exit_code == 0, done.output
    assert "answer  [b]  1 of 1 vote\n" in done.output


REFUSED = {
    "--scorer nope": "a scorer is mean-logprob, exact:KEY",
    "--samples 0": "samples must be at least 1, got 0",
    "--temperatures 0,a": "temperatures must be numbers with / or commas between them, got '0,a'",
    "--temperatures -1": "a temperature must be a finite number of at least 0, got -1.0",
    "--temperatures 1,1": "a temperature is named twice",
    "--top-p 1.5": "top_p must be in (0, 1], got 1.5",
    "--top-k -1": "top_k must be",
    "--min-p nan": "min_p must be in [0, 1], got nan",
    "--repetition-penalty 0": "repetition_penalty must be above 0 and finite, got 0.0",
    "--presence-penalty inf": "presence_penalty must be finite, got inf",
    "--max-new-tokens 0": "max_new_tokens must be at least 1, got 0",
    "--slots 0": "slots must be at least 1, got 0",
    "--seed 99999999999999999999": "seed must fit in 64 bits",
    "--rule nope": "no rule is called 'nope'",
    "--extractor nope": "no extractor is called 'nope'",
    "--prompt-template hey": "the prompt template must contain {question}, got 'hey'",
    "--model /no/such/folder": "got '/no/such/folder': no such file",
    "--dtype int8": "dtype must be a floating-point type",
    "--device nope": "device must be one that torch can use, got 'nope'",
}


@pytest.mark.parametrize("name", ["repetition", "frequency", "presence"])
def test_penalties(name, tmp_path):
    """What was written becomes less likely: one word for ever without, another with; Python's solve says the same."""
    folder = bigram.save_folder(
        tmp_path, {bigram.ASSISTANT: {"a": 1.0}, "a": {"a": 0.6, "4": 0.4}, "4": {bigram.END: 1}}
    )
    options = ("-m", folder, "--temperatures", "0", "--max-new-tokens", "4", "--json")
    plain, other = (
        json.loads(run("2 + 2?", *options, *more).stdout)["samples"][0]["text"]
        for more in ((), (f"--{name}-penalty", "5"))
    )
    assert plain == "aaaa"
    assert other != plain
    loaded = fastsample.models.load(str(folder))
    by_hand = fastsample.solve(*loaded, "2 + 2?", temperatures=[0], max_new_tokens=4, **{f"{name}_penalty": 5.0})
    assert by_hand.samples[0].text == other


def test_a_chat_can_come_before_the_question(tiny_folder, tmp_path):
    """Its turns are part of the prompt; a file that holds none is refused."""
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]))
    options = ("-m", tiny_folder, "--temperatures", "0", "--json")
    plain, with_chat = (json.loads(run("2 + 2?", *options, *more).stdout) for more in ((), ("--history", chat)))
    assert with_chat["answer"] == "4"
    assert with_chat["prompt_tokens"] > plain["prompt_tokens"]
    chat.write_text('[{"role": "user"}]')
    refused = run("2 + 2?", *options, "--history", chat)
    assert refused.exit_code == 2
    assert 'a turn must be {"role"' in refused.stderr


def test_a_verifier_decides_the_full_vote(tiny_folder):
    """Most samples say 4, the key says 5: the best sample wins."""
    done = run("2 + 2?", "-m", tiny_folder, "--temperatures", "1", "--samples", "20", "--scorer", "exact:5", "--json")
    result = json.loads(done.stdout)
    answers = [sample["answer"] for sample in result["samples"]]
    assert answers.count("4") > answers.count("5") > 0
    assert result["answer"] == "5"


@pytest.mark.parametrize("options", REFUSED)
def test_bad_usage_is_one_sentence_and_exit_code_2(options, tiny_folder):
    """Rule, value and remedy on standard error; nothing on standard output, no traceback."""
    done = run("2 + 2?", "-m", tiny_folder, *options.split(), "--json")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("fastsample: ")
    assert REFUSED[options] in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("question", ["", "   ", "long " * 200])
def test_a_question_that_cannot_be_asked_is_refused(question, tiny_folder):
    """An empty one and one beyond the model's context of 512 tokens."""
    done = run(question, "-m", tiny_folder)
    assert done.exit_code == 2, done.output
    assert "the question is empty" in done.stderr if not question.strip() else "context of 512 tokens" in done.stderr


def test_settings_are_refused_before_the_model_is_loaded(monkeypatch):
    """Nobody waits half a minute for a model to learn of a typing error."""
    from fastsample import models

    monkeypatch.setattr(models, "load", lambda *args, **more: pytest.fail("the model was loaded"))
    assert run("2 + 2?", "--rule", "nope").exit_code == 2


def test_ctrl_c_leaves_a_clean_terminal_and_what_is_known(tmp_path):
    """On a terminal, with one sample finished and others writing: its vote, exit code 130, the cursor back."""
    folder = bigram.save_folder(tmp_path, bigram.BRIEF_OR_ENDLESS, context=100_000)
    leader, follower = pty.openpty()
    args = ["solve", "2 + 2?", "-m", folder, "--temperatures", "0,1", "--samples", "10", "--max-new-tokens", "90000"]
    args += ["--rule", "majority"]  # which waits for the endless ones
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen([*COMMAND, *map(str, args)], env=env, preexec_fn=hear_ctrl_c, **streams)
    os.close(follower)
    screen, is_sent, end = "", False, time.monotonic() + 90
    while time.monotonic() < end:
        try:
            screen += os.read(leader, 65536).decode(errors="replace")
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not is_sent and "tokens/s" in screen:
            process.send_signal(signal.SIGINT)
            is_sent = True
    assert process.wait(timeout=10) == 130, screen[-2000:]
    os.close(leader)
    assert "Traceback" not in screen
    assert re.search(r"interrupted after \d+ of 11 samples", screen)
    assert "leading so far" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "the cursor stayed hidden"


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("typer", "the command line needs typer, which is not installed; pip install typer"),
        ("transformers", "loading a model needs transformers; pip install 'fastsample[demo]'"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_remedy(package, sentence):
    """Installed without the extras: the pip line instead of a traceback."""
    code = f"import sys; sys.modules[{package!r}] = None\nfrom fastsample.cli import main\nmain(['solve', '2 + 2?'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr == f"fastsample: {sentence}\n"


def test_help_and_version_wait_for_nothing():
    """Neither imports torch, transformers or numpy."""
    code = (
        "import sys\nfrom fastsample.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'triton') if name in sys.modules])"
    )
    for args, text in (
        (["--version"], f"fastsample {__version__}"),
        (["--help"], "solve"),
        (["solve", "-h"], "--rule"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
        assert text in done.stdout
        assert done.stdout.endswith("[]\n"), done.stdout


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_answers(embedded):
    """Without --model: the whole way from the package's file to a vote."""
    done = run("What is 2 + 2?", "--temperatures", "0,0.3", "--samples", 2, "--max-new-tokens", 24)
    assert done.exit_code == 0, done.output
    assert "answer  4  " in done.output


def test_samples_cut_by_their_length_are_told(tmp_path):
    """They have no vote; where none has, the remedy is a higher limit, and --cut-votes counts them all the same."""
    folder = bigram.save_folder(tmp_path, {bigram.ASSISTANT: {"4": 1.0}, "4": {"a": 1.0}, "a": {"a": 1.0}})
    options = ("2 + 2?", "-m", folder, "--temperatures", "1", "--samples", "3", "--max-new-tokens", "5")
    done = run(*options)
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "no answer: 3 of 3 samples cut by their length, without a vote; raise --max-new-tokens" in said
    assert "3 samples cut by the length" in said
    done = run(*options, "--cut-votes", "--extractor", "regex:(4)")
    assert done.exit_code == 0, done.output
    assert "3 of 3 votes" in done.output


def test_a_strategy_without_an_answer_says_why(tmp_path):
    """A path that was cut is read all the same, so that the remedy is a higher limit; and one leg is no "legs"."""
    endless, numbers = {bigram.ASSISTANT: {"a": 1.0}, "a": {"a": 1.0}}, ("--extractor", "number")
    folder = bigram.save_folder(tmp_path, endless)
    done = run("2 + 2?", "-m", folder, "--strategy", "best:n=2,how=vote", "--max-new-tokens", "5", *numbers)
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "path 1: no answer (1 leg, limit)" in said
    assert "in any of 2 finished paths, 2 of them cut by their length; raise --max-new-tokens, or the" in said
    strategy = ("--strategy", "beam:n=2,m=2,until=,leg=1,depth=1", "--scorer", "signal:raw_logprob")
    done = run("2 + 2?", "-m", folder, *strategy, "--max-new-tokens", "5", *numbers)
    assert "no answer: no path came to its end" in " ".join(done.output.split())
