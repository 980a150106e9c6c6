"""The figures in the documentation are those that the benches stored."""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path

from fastsample.strategies.registry import METHODS

ROOT = Path(__file__).parent.parent


def page_of(name):
    return (ROOT / name).read_text()


def in_one_line(name):
    return " ".join(page_of(name).split())


def stored_in(name):
    return json.loads((ROOT / "bench" / name).read_text())


def test_the_figures_over_vllm():
    """Those of docs/engines.md that have a line in bench/vllm.json: by the clock, by the processor, by the server."""
    page = page_of("docs/engines.md")
    full, half, large, votes = map(json.loads, (ROOT / "bench/vllm.json").read_text().splitlines())
    names = ("vLLM, its own", "vLLM, our draw", "our engine")
    for name, label in zip(names, ("vLLM with its own sampler", "vLLM with our draw", "the engine in this process")):
        cells = []
        for run in (full, half):
            row, other = run["rows"][name], run["rows"][names[0]]["tokens_per_second"]
            times = "" if name == names[0] else f": {row['tokens_per_second'] / other:.1f} times"
            cells.append(f"{row['tokens_per_second']:.0f} ({row['tokens_per_processor_second']:.0f}){times}")
        assert f"| {label} | {cells[0]} | {cells[1]} |" in page
    theirs, ours, own = (large["rows"][name]["tokens_per_processor_second"] for name in names)
    times, theirs, ours, own = ours / theirs, *(f"{value:.0f}" for value in (theirs, ours, own))
    told = (
        f"it is {ours} tokens for a second of processor with our draw, {theirs} without ({times:.1f} times), and {own}"
    )
    assert told in " ".join(page.split())
    every, early = votes["rows"]
    for row in (every, early):
        assert f"| {row['rule']} | {row['written']:,} |" in page
        assert f"| {row['counted']:,} | {sum(row['right'])} " in page
    assert f"| {early['written'] / every['written']:.0%} |".replace("%", " %") in page
    assert f"wrote {early['written'] - early['received']} tokens that were no longer wanted" in page


def test_the_figures_of_rollouts():
    """TRL's own generate beside ours, from bench/trl_rollouts.json."""
    stored, page = stored_in("trl_rollouts.json"), page_of("docs/engines.md")
    theirs, ours = (statistics.median(stored["seconds"][name]) for name in ("trl", "fastsample"))
    assert f"| TRL's own `generate` | {theirs:.1f} |" in page
    assert f"| `fastsample.trl.rollout()` | {ours:.1f} ({theirs / ours:.1f} times fewer) |" in page


def test_the_figures_over_servers():
    """Those of docs/engines.md that have a line in bench/servers.json: the cost here, and llama.cpp's tokens."""
    page = page_of("docs/engines.md")
    cost, votes, soak = map(json.loads, (ROOT / "bench/servers.json").read_text().splitlines())
    assert f"at {cost['tokens_per_second']:,} tokens a second" in page
    for part in cost["parts"].values():
        assert f"| {100 * part['of_a_core']:.1f} % | {part['us_per_token']:.0f} |" in page
    full, *others = votes["rows"]
    for row in (full, *others):
        rule = row["rule"] + ", all started at once" * row["together"]
        share = f"{row['written'] / full['written']:.0%}".replace("%", " %")
        right = f"{sum(row['right'])}" + " (the same ones)" * (row is not full and row["right"] == full["right"])
        told = f"| {rule} | {row['written']:,} | {share} | {row['counted']:,} | {right} "
        assert told in page
        assert f"| {row['seconds']:.0f} |" in page
    cut = votes["cancelled"]
    more = cut["written"] - cut["received"]
    assert f"Of {cut['samples']} samples that are cancelled" in page
    assert f"writes {more} tokens more than the {cut['received']} that had come" in page
    sizes = soak["megabytes"]
    assert f"after each minute {min(sizes):.0f} to {max(sizes):.0f} MB, {sizes[-1]:.0f} at the end" in page
    assert f"{soak['told']['hung up']:,} hung up" in page


def test_the_table_of_search_is_what_was_stored():
    """Each line of docs/search.md, from bench/search.json; and every strategy has its row and its example."""
    page = page_of("docs/search.md")
    stored = stored_in("search.json")
    cells = {}
    for row in stored["rows"]:
        kind = re.sub(r"n=\d+", "n=", row["strategy"])
        cells.setdefault(kind, {}).setdefault(row["world"], []).append(f"{100 * row['right']:.0f}")
    for worlds in cells.values():
        assert f"| {' | '.join(' / '.join(shares) for shares in worlds.values())} |" in page
    assert len(cells) == 5
    for name in METHODS:
        assert f"| `{name}` |" in page
        assert re.search(rf'ask\("{name}[:"]', page), name


def test_the_tables_of_heads_and_closed_forms_are_what_was_stored():
    """Each figure of docs/search.md, from bench/head.json and bench/search.json."""
    page = in_one_line("docs/search.md")
    stored = stored_in("head.json")

    def over(numbers):
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in numbers))

    lines = [(f"{100 * row['right']:.1f}", over(row["over_one"]), over(row["over_vote"]), f"{row['tokens']:.0f}")
             for row in stored["rows"]]  # fmt: skip
    one, any_right, vote, *others = lines
    assert f"| one text | {one[0]} | | {one[2]} | {one[3]} |" in page
    assert f"| vote of 16 | {vote[0]} | {vote[1]} | | {vote[3]} |" in page
    assert f"On {any_right[0]} % of the questions some text of sixteen is right" in page
    assert [line for line in others if " | ".join(line) not in page] == []
    for name, area in zip(("head", "log-probability"), stored["auc"].values()):
        assert "{} {:.3f} ({:.3f} to {:.3f})".format(name, *area) in page
    assert f"has {stored['within']:.3f}: next to nothing" in page
    assert f"judged by {stored['questions']} others" in page
    closed = stored_in("search.json")
    for row in closed["closed"]:
        if "expected" in row:
            assert f"{row['right']:.3f}, {row['expected']:.3f}" in page
    assert f"The share of {closed['seeds']:,} seeds" in page


def test_what_is_said_of_learning_is_what_was_stored():
    """The figures of test-time training in docs/search.md, from bench/test_time.json."""
    page = in_one_line("docs/search.md")
    stored = stored_in("test_time.json")
    plain, taught = stored["rows"].values()
    assert (
        f"Without learning {plain['right']} of {plain['known']} are right, with 20 steps {taught['right']} of" in page
    )
    gap, low, high = (100 * x for x in stored["difference"])
    assert f"{gap:+.1f} points (95 % by puzzle: {low:+.1f} to {high:+.1f})" in page
    assert "falls from {:.2f} to {:.2f} nats".format(*taught["loss"]) in page
    assert "A puzzle takes {:.0f} s of one thread instead of {:.0f}".format(
        *(row["seconds"] / stored["puzzles"] for row in (taught, plain))
    ) in page  # fmt: skip


def test_what_is_said_of_a_beam_is_what_was_stored():
    """What a beam costs in docs/search.md, from bench/paths.json: two rounds beside a kept cache, and the books."""
    page = in_one_line("docs/search.md")
    stored = stored_in("paths.json")
    assert [row["round"] for row in stored["measured"]] == [2, 3]
    assert f"{stored['ratios']['kept']:.1f} times in rounds 2 and 3" in page
    assert f"keep the books) takes {stored['books']['share']:.1%} of the time".replace("%", " %") in page


def test_what_is_said_of_short_answers_is_what_was_stored():
    """Each figure of TOPS in docs/search.md, from bench/tops.json."""
    page = in_one_line("docs/search.md")
    stored = stored_in("tops.json")
    assert f"{stored['learn']} sums are asked at three efforts" in page
    assert f"{stored['lessons']} of them have a right text that was not cut" in page
    for name, label in (("right", "right texts, %"), ("tokens", "tokens of a text"), ("cut", "texts that were cut, %"),
                        ("of a right text", "tokens of a right text, 29 questions")):  # fmt: skip
        row, factor = stored["rows"][name], 100 if "%" in label else 1
        before, after = factor * row["before"], factor * row["after"]
        gap = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(factor * x for x in row["difference"]))
        assert f"| {label} | {before:.1f} | {after:.1f} | {gap} |" in page
    rights = "{:.1f}, {:.1f} and {:.1f} %".format(*(100 * level["right"] for level in stored["levels"]))
    lengths = "{:.0f}, {:.0f} and {:.0f} tokens".format(*(level["tokens"] for level in stored["levels"]))
    shortest = "{}, {} and {}".format(*(level["shortest"] for level in stored["levels"]))
    assert f"effort {rights} of the texts are right, with {lengths}, and {shortest}" in page
    assert stored["rows"]["of a right text"]["questions"] == 29
    control = stored_in("tops_random.json")["rows"]
    assert control["right"]["before"] == stored["rows"]["right"]["before"]
    told = f"{100 * control['right']['after']:.1f} % are right afterwards, with {control['tokens']['after']:.1f} tokens"
    assert told in page


# --- docs/performance.md and docs/gpu.md ------------------------------------------------------------------------------

NAMES = {"zipf": "Zipf-like", "real": "SmolLM2's own", "flat": "flat noise"}


def rounded(x):
    """Two digits below ten, whole numbers above."""
    return f"{x:.1f}" if x < 10 else f"{x:,.0f}"


def test_the_table_of_sampling_is_what_was_stored():
    """Each line of docs/performance.md, from bench/sampling.json."""
    lines = []
    for cell in stored_in("sampling.json")["results"]:
        if (cell["dtype"], cell["threads"]) == ("float32", 1):
            us = {name: middle for name, (_, middle, _) in cell["us_per_row"].items()}
            ours, one, both = us["fastsample"], us["one read (torch.amax)"], us["floor (max + sum of exp)"]
            peers = [us["llama.cpp"], us["transformers"]]
            where = f"{NAMES[cell['rows']]}, {cell['vocab']:,}, {cell['batch']}, {cell['setting']}"
            values = " | ".join(f"{x:,.0f}" for x in (one, both, *peers))
            lines.append(f"| {where} | **{ours:.0f}** | {values} | {', '.join(rounded(x / ours) for x in peers)} |")
    page = page_of("docs/performance.md")
    assert len(lines) == 7
    assert [line for line in lines if line not in page] == []


def test_what_was_stored_was_measured():
    """Every row of bench/sampling.json is of a program that the bench itself runs, none a figure from elsewhere."""
    script = (ROOT / "bench/sampling.py").read_text()
    cells = stored_in("sampling.json")["results"]
    names = {name for cell in cells for name in cell["us_per_row"]}
    assert {"fastsample", "transformers", "llama.cpp"} <= names
    assert [name for name in names if f'"{name}"' not in script] == []


def test_what_the_gpu_page_counts():
    """Issue slots, spills and loads of bench/kernel_cost.md, and the faults that are planted."""
    page = in_one_line("docs/gpu.md")
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in (ROOT / "bench/kernel_cost.md").read_text().splitlines() if line.startswith("| ")]  # fmt: skip
    head = next(line for line in table if line[0] == "kernel")
    kernels = [dict(zip(head, line)) for line in table if line[0].startswith(("cuda", "triton"))]
    assert {kernel["spills"] for kernel in kernels if kernel["arch"] != "sm_100a"} == {"0"}
    spilled = {kernel["kernel"]: kernel["spills"] for kernel in kernels if kernel["arch"] == "sm_100a"}
    assert {name for name, n in spilled.items() if n != "0"} == {"triton 2 bfloat16", "triton 2 float32 + statistics"}
    of_bfloat16, of_float32 = spilled["triton 2 bfloat16"], spilled["triton 2 float32 + statistics"]
    assert f"{of_bfloat16} instructions for bfloat16 without statistics, and {of_float32} for float32 with them" in page
    assert {kernel["load_bytes"] for kernel in kernels} <= {"16", ""}
    slots = {(kernel["kernel"], kernel["arch"]): kernel["largest"] for kernel in kernels}
    kernels_of = {(kernel["kernel"], kernel["arch"]): kernel["instructions"] for kernel in kernels}
    cuda, triton = ([float(slots[f"{name} {dtype}", arch]) for dtype in ("float32", "bfloat16")]
                    for name, arch in (("cuda 1", "sm_90"), ("triton 1", "sm_90")))  # fmt: skip
    assert f"{cuda[0]:.1f} issue slots in float32 and {cuda[1]:.1f} in bfloat16 (CUDA)" in page
    assert f"{triton[0]:.1f} and {triton[1]:.1f} (Triton)" in page
    read = {what: kernels_of[f"cuda 1 bfloat16{what}", "sm_90"] for what in ("", ", maxima", " + statistics")}
    assert "{} instructions, or {} where".format(read[""], read[", maxima"]) in page
    assert f"{read[' + statistics']} with statistics" in page
    for line in (ROOT / "bench/executed.md").read_text().splitlines():
        if line.startswith("| "):
            assert line in page_of("docs/gpu.md")
    faults = 0
    for name in ("test_mutations.py", "test_triton_mutations.py"):
        for node in ast.parse((ROOT / "tests/sampling/gpu" / name).read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("FAULTS"):
                faults += len(node.value.keys)
    assert f"{faults} faults were put into the code" in page
