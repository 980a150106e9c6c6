"""Lays out the pages of the documentation for mkdocs, from the README, docs/ and the docstrings: `make docs`.

    python tools/site_pages.py    writes build/pages, which mkdocs.yml names as its source

Links of our pages lead to files of the checkout. Those to pages stay; a file that is linked is laid beside the pages,
so that nothing leads out of the site; a link to a folder becomes its text. The pages about the package's functions hold
only their names: mkdocstrings reads what stands there from the docstrings.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build/pages"
# Where a page of the checkout lies in the site; the pages of docs/ lie at its top.
HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security_policy.md",
    "CHANGELOG.md": "changelog.md",
    "bench/kernel_cost.md": "kernel_cost.md",
}
# A chapter of the reference, and the modules that it is about beside what `fastsample` itself offers.
CHAPTERS = {
    "Sampling": ("fastsample.sampling.api", "fastsample.sampling.contract", "fastsample.sampling.edits"),
    "Solving": ("fastsample.solving.solve", "fastsample.strategies.question", "fastsample.strategies.records"),
    "Models": ("fastsample.models.loading",),
    "Engines": ("fastsample.engines.base", "fastsample.engines.local.engine"),
    "Rules": ("fastsample.voting.stopping", "fastsample.voting.weighted"),
    "Evaluation": ("fastsample.evaluation.evaluate", "fastsample.evaluation.tables", "fastsample.evaluation.report"),
    "Hugging Face": ("fastsample.hf.generate", "fastsample.hf.processors"),
}
# Our tables and signatures are 120 characters wide.
STYLE = ".md-grid { max-width: 84rem; } .md-typeset pre > code { font-size: .66rem; }\n"
LINK = re.compile(r"(!?\[[^\]\n]*\])\(([^)\s]+)\)")


def sources() -> dict[Path, str]:
    """Every page of the checkout that is in the site -> its place there."""
    found = {ROOT / name: home for name, home in HOMES.items() if (ROOT / name).exists()}
    return found | {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}


def laid_out(page: Path, text: str, pages: dict[Path, str], files: set[Path]) -> str:
    """The text of a page with its links led to their places in the site; `files` gets what else must lie there."""

    def led(match: re.Match[str]) -> str:
        words, target = match.groups()
        place, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not place:
            return match[0]
        path = (page.parent / place).resolve()
        if path in pages:
            return f"{words}({pages[path]}{'#' + anchor if anchor else ''})"
        if path.is_file():
            files.add(path)
            return f"{words}(files/{path.relative_to(ROOT).as_posix()})"
        return words.strip("![]")

    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)  # what stands in a block of code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(led, part) for part in parts)


def public_names() -> list[tuple[str, str]]:
    """(name, module) of what `fastsample` itself offers, from its own list."""
    for node in ast.parse((ROOT / "fastsample/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return sorted((name, f"fastsample.{home}") for name, home in ast.literal_eval(node.value).items())
    raise SystemExit("fastsample/__init__.py must have the list _HOMES: the reference is made from it")


def reference() -> str:
    """The page with what `import fastsample` offers, and one heading for each further module."""
    lines = ["# Reference", "", "What `import fastsample` offers first, then the modules behind it.", ""]
    for name, module in public_names():
        lines += [
            f"## fastsample.{name}",
            "",
            f"::: {module}.{name}",
            "    options:",
            "      show_root_heading: false",
            "",
        ]
    told = {f"{module}.{name}" for name, module in public_names()}
    for chapter, modules in CHAPTERS.items():
        lines += [f"## {chapter}", ""]
        for module in modules:
            names = [name for name in public_of(module) if f"{module}.{name}" not in told]
            lines += [f"### {module}", "", f"::: {module}", "    options:", "      show_root_heading: false"]
            lines += ["      heading_level: 4", f"      members: {names}", ""]
    return "\n".join(lines)


def public_of(module: str) -> list[str]:
    """The public classes and functions of a module, in its order; each once."""
    path = ROOT / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text()).body
    names = [node.name for node in tree if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return list(dict.fromkeys(name for name in names if not name.startswith("_")))


def main() -> None:
    """Writes the pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    pages, files = sources(), set[Path]()
    for path, home in pages.items():
        (PAGES / home).write_text(laid_out(path, path.read_text(encoding="utf-8"), pages, files), encoding="utf-8")
    (PAGES / "site.css").write_text(STYLE)
    (PAGES / "reference.md").write_text(reference(), encoding="utf-8")
    for path in files:
        target = PAGES / "files" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    print(f"{len(pages) + 1} pages and {len(files)} files in {os.path.relpath(PAGES)}")


if __name__ == "__main__":
    main()
