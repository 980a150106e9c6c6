"""The client of the tests of `fastsample serve`: httpx2, which huggingface_hub brings, or httpx in older releases."""

try:
    import httpx2 as httpx
except ModuleNotFoundError:
    import httpx

__all__ = ["httpx"]
