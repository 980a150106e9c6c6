"""One module a backend: `name`, `why_not(case)`, `sample(case, tokens, stats)` and, if it can, `distribution`."""
