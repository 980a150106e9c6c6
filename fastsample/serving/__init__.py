"""An OpenAI-compatible server over any engine: plain requests, and votes with early exit."""
