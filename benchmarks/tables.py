"""All tables of docs/results again, each by the command that stands over it.

    python benchmarks/tables.py [--folder tables] [PAGE ...]

What a command prints goes to ``FOLDER/PAGE-NUMBER.txt``, below the command itself; NUMBER counts the commands of a
page from 1. A file that is there is kept, so what was stopped goes on where it was. Meta-training (``meta-opt fit``,
``meta-opt study``) is left out. META_OPT_DATA_DIR names the folder of the data sets. All of them take hours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BEGINNINGS = ("meta-opt compare ", "python benchmarks/")
_PLACEHOLDER = "META_OPT_DATA_DIR=... "


def main() -> None:
    """Run the commands of the pages that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="mnist_mlp, long_runs, ... (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("tables"), help="where the outputs go")
    options = parser.parse_args()
    pages = {path.stem: path for path in sorted((ROOT / "docs/results").glob("*.md"))}
    unknown = sorted(set(options.pages) - set(pages))
    if unknown:
        sys.exit(f"there is no page {unknown[0]} in docs/results; there are {', '.join(pages)}")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for page in options.pages or pages:
        for number, command in enumerate(commands_of(pages[page].read_text()), start=1):
            output = folder / f"{page}-{number}.txt"
            if not output.exists():
                print(f"{output.name}: {command}", flush=True)
                _run(command, output)


def commands_of(text: str) -> list[str]:
    """The commands of a page that do not meta-train: indented lines, joined where one ends in a backslash."""
    commands = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("    "):
            continue
        command = line.strip()
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
        command = command.removeprefix(_PLACEHOLDER)
        if command.startswith(_BEGINNINGS):
            commands.append(command)
    return commands


def _run(command: str, output: Path) -> None:
    start = time.perf_counter()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # this environment's commands
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S602
    if done.returncode:
        print(*done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return  # no file: the next call tries again
    minutes = (time.perf_counter() - start) / 60
    output.write_text(f"$ {command}\n{done.stdout}{minutes:.1f} minutes\n")


if __name__ == "__main__":
    main()
