"""One prompt's K/V stored once and a tail for every sample: torch alone, no transformers."""
