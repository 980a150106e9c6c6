"""The releases of transformers that are tested and why. Made by `python tools/compat.py --refresh`."""

RELEASES = {
    "5.0.0": "the first",
    "5.4.0": "the last of 2026 Q1",
    "5.12.1": "the last of 2026 Q2",
    "5.18.0": "the last of 2026 Q3",
    "5.23.0": "of the last two series on 2026-11-24",
    "5.24.0": "of the last two series on 2026-11-24",
}
