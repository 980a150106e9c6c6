"""Samples written by servers that speak OpenAI's language: vLLM, llama.cpp, SGLang, gateways. Needs no torch."""
