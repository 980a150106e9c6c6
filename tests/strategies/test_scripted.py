"""Methods that talk to the model in words, and those that prolong its thinking, over a model of set sentences."""

from __future__ import annotations

from math import log

import pytest
from scripted import Characters, scripted

from fastsample.scoring.verifiers import ExactMatch
from fastsample.solving.solve import solve_many
from fastsample.strategies.graph_of_thoughts import thoughts_of
from fastsample.strategies.question import Settings
from fastsample.strategies.retrieval import BM25, Document
from fastsample.strategies.scrutiny import word_of
from fastsample.strategies.thought_switches import ThoughtSwitchPenalty


def ask(reply, strategy, *, scorer=None, question="2 + 2?", limit=200, engine=None, **settings):
    settings = Settings(max_new_tokens=limit, **settings)
    engine = engine or scripted(reply)
    (found,) = solve_many(None, Characters(), [question], settings=settings, strategy=strategy, scorer=scorer,
                          engine=engine, is_strict=True, extractor="number")  # fmt: skip
    assert not engine.kept
    return found


def rest(full, written):
    """What is left of a text to be written."""
    return full[len(written) :] if full.startswith(written) else ""


# --- force ------------------------------------------------------------------------------------------------------------


def thinker(prompt, written, request):
    """Thinks briefly, ends; after a Wait thinks again; then answers 4."""
    thought, _, answer = written.partition("</think>")
    if "</think>" in written:
        return rest("\nFinal Answer: 4", answer) if "Final" in answer else rest(" so 4", answer)
    last = thought.rpartition("Wait")[2]
    return rest(" Hm.", last) + "</think>"


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        ("force:ignore=0,thinking=50", " Hm.</think> so 4"),
        ("force:ignore=1,thinking=50", " Hm.Wait Hm.</think> so 4"),
        ("force:ignore=3,thinking=50,wait=Wait", " Hm.Wait Hm.Wait Hm.Wait Hm.</think> so 4"),
        ("force:ignore=9,thinking=14", " Hm.Wait Hm.</think> so 4"),
        ("force:ignore=9,thinking=10", " Hm.Wait H\n</think>\nFinal Answer: 4"),
        ("force:ignore=0,thinking=2", " H\n</think>\nFinal Answer: 4"),
    ],
)
def test_thinking_is_prolonged_and_ended(strategy, text):
    """Ended by itself; ignored once and thrice; no room for another Wait; ran out in the middle of a word, twice."""
    found = ask(thinker, strategy)
    assert found.text == text
    assert found.answer == "4"
    thought = text.partition("</think>")[0].rstrip("\n")
    assert len(thought) <= int(strategy.partition("thinking=")[2].partition(",")[0])


def test_a_model_without_an_end_of_thinking_is_prolonged_at_its_own_end():
    """The text's end is what is ignored, and the reason says so."""

    def plain(prompt, written, request):
        return rest(" It is 5.", written.rpartition("Wait")[2]) if written.count("Wait") < 2 else ""

    found = ask(plain, "force:ignore=1,end=eos")
    assert found.text == " It is 5.Wait It is 5."
    assert "the model's own end" in found.reason
    assert found.appended_tokens == 4


def test_an_effort_sets_tokens_and_a_system_prompt():
    """low: 1,024 tokens of thinking, and its own prompt."""
    engine = scripted(thinker)
    ask(thinker, "force:effort=low,ignore=0", engine=engine)
    first = engine.requests[0]
    assert first.max_new_tokens == 1024
    assert "Think briefly" in Characters().decode(first.prompt)
    found = ask(thinker, "efforts:n=2")
    assert len(found.samples) == 6
    assert len({p.prompt for p in found.paths if p.parent}) == 3


def test_switching_words_are_held_back_for_a_while():
    """alpha is taken from their first tokens in the first beta tokens of a thought, and not after."""
    torch = pytest.importorskip("torch")
    penalty = ThoughtSwitchPenalty((5,), start=2, alpha=3.0, beta=2)
    scores = torch.zeros(1, 8)
    for ids, taken in (([9, 9], 3), ([9, 9, 1], 3), ([9, 9, 1, 1], 0), ([9, 9, 1, 1, 5], 3), ([9, 9, 5, 1, 1], 0)):
        assert penalty(torch.tensor([ids]), scores)[0].tolist() == [0.0] * 5 + [-taken] + [0.0] * 2
    with pytest.raises(ValueError, match="'Wait' begins with the token 'W'"):
        ThoughtSwitchPenalty.of(Characters(), 0, words=("Wait",))


# --- refine -----------------------------------------------------------------------------------------------------------


def reviser(drafts):
    """Writes drafts[0], and after each critique the next one."""

    def reply(prompt, written, request):
        if "Read the draft critically" in prompt:
            return rest("It is wrong.", written)
        if "What a reader says" in prompt:
            draft = prompt.partition("A draft of an answer:\n")[2].partition("\n")[0]
            return rest(drafts[drafts.index(draft) + 1], written)
        return rest(drafts[0], written)

    return reply


def test_a_revision_is_accepted_where_its_score_did_not_fall():
    """3, then 4 (right): taken, and kept when the next revision says 5."""
    found = ask(reviser(["3", "4", "5", "6"]), "refine:rounds=3,patience=2", scorer=ExactMatch("4"))
    assert (found.answer, found.score) == ("4", 1.0)
    assert [s.answer for s in found.samples] == ["3", "4", "5", "5"]  # critiques are no candidates


def test_without_a_score_every_revision_is_accepted():
    """The book's row "None": rounds of it, whatever they say."""
    assert ask(reviser(["3", "4", "5"]), "refine:rounds=2,score=none,patience=9").answer == "5"


def test_it_stops_at_the_threshold_and_when_patience_ends():
    """Right at once: no round; never better: one."""
    right = ask(reviser(["4", "5"]), "refine:rounds=5,threshold=1", scorer=ExactMatch("4"))
    assert right.legs == 1
    stuck = ask(reviser(["3", "3", "3"]), "refine:rounds=5,patience=2", scorer=ExactMatch("4"))
    assert stuck.legs == 1 + 2 * 2


def test_log_probability_of_the_text_is_read_behind_the_first_prompt():
    """The engine made up -1 / (1 + length): the longer text is likelier."""
    found = ask(reviser(["33", "4", "555"]), "refine:rounds=2,patience=2,score=logprob")
    assert found.answer == "33"
    assert found.score == pytest.approx(-1 / 3)
    assert ask(reviser(["33", "555"]), "refine:rounds=1,score=logprob").answer == "555"


def test_a_program_can_be_the_critic(monkeypatch, tmp_path):
    """module:function in the model's place: one leg less a round, and its words are in the prompt."""
    (tmp_path / "critics.py").write_text("def tests(question, draft):\n    return f'failed: {draft} {{}}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    engine = scripted(reviser(["3", "4"]))
    found = ask(None, "refine:rounds=1,score=none,critic=critics:tests", engine=engine)
    assert (found.answer, found.legs) == ("4", 2)
    assert "failed: 3 {}" in Characters().decode(engine.requests[-1].prompt)


# --- scrutinize -------------------------------------------------------------------------------------------------------


def test_the_answer_with_the_most_yes_is_taken():
    """Six samples say 3 and two say 4; the checker says yes to 4 alone."""

    def reply(prompt, written, request):
        if "Check it" in prompt:
            return rest("Verdict: " + ("yes" if "answer:\n4" in prompt else "no"), written)
        return rest("4" if request.stream % 4 == 0 else "3", written)

    for seed in range(4):
        found = ask(reply, "scrutinize:n=8,checks=2", seed=seed, question=f"{seed}?")
        assert found.answer == ("4" if "4" in {s.answer for s in found.samples} else "3")


def test_close_answers_are_compared_in_both_orders():
    """Every verdict is yes; a comparison that always says "first" is even, one that looks wins."""

    def reply_of(compare):
        def reply(prompt, written, request):
            if "Check it" in prompt:
                return rest("Verdict: yes", written)
            if "First answer" in prompt:
                return rest("Verdict: " + compare(prompt), written)
            return rest("4" if request.stream % 2 else "3", written)

        return reply

    fair = ask(reply_of(lambda p: "first" if "First answer:\n4" in p else "second"), "scrutinize:n=8,checks=1")
    biased = ask(reply_of(lambda p: "first"), "scrutinize:n=8,checks=1")
    assert fair.answer == "4"
    assert "1 of 1 pairs won" in fair.reason
    assert "0.5 of 1 pairs won" in biased.reason
    silent = ask(reply_of(lambda p: "neither"), "scrutinize:n=8,checks=1,ties=4")
    assert "4 could not be read" in silent.reason


def test_the_last_verdict_counts():
    """Text in front, other verdicts before; none is none."""
    assert word_of("Verdict: no. But then. **Verdict:** Yes") == "yes"
    assert word_of("I would say yes") is None


# --- retrieve ---------------------------------------------------------------------------------------------------------


def searcher(prompt, written, request):
    """Asks for Ulm twice, then answers with what it was shown."""
    if "**Final Information**" in prompt and "Documents" in prompt:
        found = "1879" if "born in 1879" in prompt else "nothing"
        return rest(f"Let me see. **Final Information** {found}", written)
    query = "<|begin_search_query|>Ulm born<|end_search_query|>"
    shown = written.count("<|end_search_result|>")
    if shown < 2:
        return rest(query, written.rpartition("<|end_search_result|>\n\n")[2])
    return rest("Answer: 1879", written.rpartition("<|end_search_result|>\n\n")[2])


def test_a_query_is_looked_up_once_and_what_is_found_is_put_there(tmp_path):
    """The second time the same query gets a sentence; a mark in a document is taken apart."""
    (tmp_path / "ulm.txt").write_text("In Ulm he was born in 1879. <|end_search_query|>")
    (tmp_path / "bern.md").write_text("In Bern he worked.")
    engine = scripted(searcher)
    found = ask(None, f"retrieve:folder={tmp_path}", engine=engine, limit=600)
    assert found.answer == "1879"
    assert "<|begin_search_result|>1879<|end_search_result|>" in found.text
    assert "You have searched this query." in found.text
    (condensed,) = [r for r in engine.requests if "Documents" in Characters().decode(r.prompt)]
    assert "<¦end_search_query¦>" in Characters().decode(condensed.prompt)
    assert "1 queries" in found.reason
    over = ask(searcher, f"retrieve:folder={tmp_path},turns=2", limit=600)
    assert over.reason.startswith("ended after 2 turns")


def test_an_empty_folder_is_refused(tmp_path):
    """By name, with what would be read."""
    with pytest.raises(ValueError, match=r"no document in .*reads its \.txt and \.md files"):
        ask(searcher, f"retrieve:folder={tmp_path}")


def test_bm25_of_three_documents_by_hand():
    """idf = ln(1 + (N - n + 0.5) / (n + 0.5)); lengths 2, 2, 4, mean 8/3."""
    find = BM25([Document("a", "cat dog"), Document("b", "Dog dog"), Document("c", "cat bird fish bird")])
    idf = log(1 + (3 - 2 + 0.5) / 2.5)
    for place, tf, length in ((0, 1, 2), (1, 2, 2)):
        by_hand = idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * length / (8 / 3)))
        assert find.score("dog", place) == pytest.approx(by_hand)
    assert [d.name for d in find("dog", 5)] == ["b", "a"]
    assert find("horse", 5) == []


# --- agot -------------------------------------------------------------------------------------------------------------


def grapher(prompt, written, request):
    """Two thoughts, the second one complex; then done; unreadable lists where the thought is asked for."""
    if "List up to" in prompt:
        if "Question:\nsecond" in prompt:
            return rest("hm", written)
        return rest("done" if "Worked out" in prompt else "1. first\n2. second", written)
    if "several steps" in prompt:
        return rest("Yes." if "several steps: second" in prompt else "no", written)
    if "Give the final answer" in prompt:
        known = "1" if "- first\nworked" in prompt and "- second\n" in prompt else "0"
        return rest(f"Answer: {known}", written)
    return rest("worked", written)


def test_a_complex_thought_has_a_graph_of_its_own():
    """Legs: a list, two yes or no, one thought, two unreadable lists, an answer inside, done, the answer."""
    found = ask(grapher, "agot")
    assert found.answer == "1"
    assert found.legs == 1 + 2 + 1 + 2 + 1 + 1 + 1
    assert ask(grapher, "agot:depth=0").legs == 1 + 2 + 1 + 1
    assert [s.answer for s in found.samples] == ["1"]


def test_lists_are_read_leniently():
    """Numbered, with dashes, done; neither is none."""
    assert thoughts_of("Sure:\n1. a: b\n 2) c\n- d\n3. e", 3) == ["a: b", "c", "d"]
    assert (thoughts_of(" **Done**", 3), thoughts_of("I think", 3)) == ([], None)
