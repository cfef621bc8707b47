"""Bad days, at random: killed runs, configs that hold anything, and flipped bits.

    python benchmarks/soak.py [--kills 100] [--configs 300] [--bits 200] [--seed 0]

- A small run is killed (SIGKILL) at random moments and resumed until it ends: the weights are those of the run that
  nobody killed, bit for bit.
- Values of a run's config are replaced by others of any kind: it trains, or says in one line what is wrong.
- Bits of the pretrained checkpoints are flipped: the file is refused, or holds the same weights.

Prints counts; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import yaml

from meta_opt import cli
from meta_opt.errors import CheckpointError
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
FIT = ["fit", "--optimizee", "quadratic", "--model.episodes_per_epoch", "4", "--trainer.max_epochs", "12", *QUIET]
RUN = Path("checkpoints/quadratic/run_0")
KILLS_PER_RUN = 5
SECONDS = 30  # that a config may take to train one episode, or to be refused
MEMORY = 12 << 30
ODD: list[Any] = [
    None, True, 0, -1, 1, 10**9, 10**18, 10**400, -(10**12), 0.5, float("inf"), float("-inf"), float("nan"), "", "x",
    "x" * 5000, "null", "1e3", "../..", "\0", "θ", [], [1], [[[[]]]], ["x", None], {}, {"a": 1},
    {"class_path": "os.system", "init_args": {"command": "false"}}, {"class_path": None}, {"class_path": "quadratic"},
]  # fmt: skip


def same(one: Any, two: Any) -> bool:
    """Whether two contents of checkpoints hold the same weights."""
    try:
        torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    return True


# -------------------------------------------------------------------------------------------------------------- kills


def kills(count: int, chosen: random.Random) -> collections.Counter[str]:
    """Kill and resume; counts of runs by outcome, and of kills."""
    found: collections.Counter[str] = collections.Counter()
    start = time.monotonic()
    expected = _ends(Path(tempfile.mkdtemp()))
    seconds = time.monotonic() - start
    while found["kills"] < count:
        folder = Path(tempfile.mkdtemp())
        for _ in range(min(KILLS_PER_RUN, count - found["kills"])):
            process = _started(folder)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=chosen.uniform(0.2, 1.0) * seconds)
            found["kills"] += process.poll() is None
            process.kill()
            process.wait()
            if process.returncode == 0:  # it came to its end before
                found["kills that came too late"] += 1
        outcome = "resumed exactly" if same(_ends(folder), expected) else "WRONG: other weights"
        found[outcome] += 1
        print(f"{found['kills']} kills: {outcome} in {folder}", flush=True)
    return found


def _started(folder: Path) -> subprocess.Popen[bytes]:
    resumes = (folder / RUN / "last.ckpt").exists()
    if not resumes:  # killed before there was anything to go on with
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    options = ["fit", "--ckpt_path", "last", *QUIET] if resumes else FIT
    return subprocess.Popen(  # noqa: S603  meta-opt itself
        [sys.executable, "-m", "meta_opt.cli", *options],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _ends(folder: Path) -> Any:
    if _started(folder).wait() != 0:
        return {"state_dict": None}
    left = [path.name for path in (folder / RUN).iterdir() if path.suffix not in (".ckpt", ".yaml")]
    return {"state_dict": None} if left else load(folder / RUN / "last.ckpt")


# ------------------------------------------------------------------------------------------------------------ configs


def configs(count: int, chosen: random.Random) -> collections.Counter[str]:
    """Train one episode with configs that hold anything; counts by outcome."""
    found: collections.Counter[str] = collections.Counter()
    os.chdir(tempfile.mkdtemp())
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main([*FIT, "--print_config"]) == 0
    good = yaml.safe_load(out.getvalue())
    for _ in range(count):
        config = copy.deepcopy(good)
        said = [_replace_one(config, chosen) for _ in range(chosen.randint(1, 2))]
        Path("mine.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        outcome, text = _outcome(["fit", "--config", "mine.yaml", "--trainer.fast_dev_run", "true"])
        found[outcome] += 1
        if outcome.startswith("WRONG"):
            print(outcome, said, text[-300:].replace("\n", " | "), flush=True)
    return found


def _replace_one(config: dict[str, Any], chosen: random.Random) -> str:
    path: list[str] = []
    part: Any = config
    while True:
        key = chosen.choice(list(part))
        path.append(str(key))
        if not (isinstance(part[key], dict) and part[key]) or chosen.random() < 0.1:
            part[key] = chosen.choice(ODD)
            return f"{'.'.join(path)} = {str(part[key])[:40]!r}"
        part = part[key]


def _outcome(arguments: list[str]) -> tuple[str, str]:
    """What comes of a command, in a process of its own."""
    said = tempfile.TemporaryFile()  # noqa: SIM115  two processes write to it
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        status = 70
        try:
            signal.alarm(SECONDS)
            status = cli.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has started
    said.seek(0)
    text = said.read().decode(errors="replace")
    said.close()
    if status == 0:
        return "trained", text
    lines = [line for line in text.splitlines() if "Warning" not in line and not line.startswith("  ")]
    if status == 2 and len(lines) == 1 and lines[0].startswith("meta-opt: error: ") and len(lines[0]) < 1600:
        return "refused in one line", text
    return ("WRONG: it took too long" if status == -signal.SIGALRM else f"WRONG: exit status {status}"), text


# --------------------------------------------------------------------------------------------------------------- bits


def bits(count: int, chosen: random.Random) -> collections.Counter[str]:
    """Flip bits of pretrained checkpoints, one at a time; counts by outcome."""
    found: collections.Counter[str] = collections.Counter()
    for name in sorted(pretrained()):
        good, weights = pretrained()[name].read_bytes(), load(pretrained()[name])
        path = Path(tempfile.mkdtemp()) / "x.ckpt"
        for _ in range(count):
            damaged = bytearray(good)
            damaged[chosen.randrange(len(good))] ^= 1 << chosen.randrange(8)
            path.write_bytes(damaged)
            try:
                found["same weights" if same(load(path), weights) else "WRONG: other weights"] += 1
            except CheckpointError:
                found["refused"] += 1
    return found


def main() -> int:
    """Run all of it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--configs", type=int, default=300, help="how many")
    parser.add_argument("--bits", type=int, default=200, help="how many in each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = False
    for name, soak in (("bits", bits), ("configs", configs), ("kills", kills)):
        found = soak(getattr(options, name), random.Random(options.seed))  # noqa: S311  no secret
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in sorted(found.items())), flush=True)
        wrong = wrong or any(what.startswith("WRONG") for what in found)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
