"""The contract's vectors: 2,326 draws by a program that shares no code with this one."""

import torch

import fastsample.sampling.reference as reference

from .cases import run, vectors


def test_every_vector(backend):
    """Every token and every kept count, on every backend and every instruction set."""
    wrong = []
    for v in vectors():
        tokens, stats = run(
            backend,
            v.logits,
            **v.parameters,
            seed=torch.tensor(v.seeds),
            stream=torch.tensor(v.streams),
            position=torch.tensor(v.positions),
            indices=torch.zeros(len(v.seeds), dtype=torch.int64),
        )
        kept = set(stats.kept.tolist())
        if tokens.tolist() != v.tokens or (v.kept >= 0 and kept != {v.kept}):
            wrong.append((v.name, v.parameters, tokens.tolist(), v.tokens, kept, v.kept))
    assert not wrong


def test_the_vectors_can_fail(monkeypatch):
    """A reference with chunks of 128 tokens, an equally good sampler, misses a vector."""
    monkeypatch.setattr(reference, "CHUNK", 128)
    for v in vectors():
        columns = {n: torch.tensor(getattr(v, n + "s")) for n in ("seed", "stream", "position")}
        tokens, _ = run("reference", v.logits, **v.parameters, **columns, indices=torch.zeros(len(v.seeds), dtype=int))
        if tokens.tolist() != v.tokens:
            return
    raise AssertionError("no vector noticed the other chunk size")


def test_philox_known_answers():
    """The words that the contract prints."""
    u1, u2 = reference.philox(0, 0, 0)
    assert (u1, u2) == (0x6627E8D5 | 0xE169C58D << 32, 0xBC57AC4C | 0x9B00DBD8 << 32)
    words = reference.philox(0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88)
    assert words == (0xD16CFE09 | 0x94FDCCEB << 32, 0x5001E420 | 0x24126EA1 << 32)
