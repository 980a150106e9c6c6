"""Logits in, tokens out: the numerical contract, its reference, and the backends that equal it to the bit."""
