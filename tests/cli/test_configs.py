"""Config files that hold anything: read, or refused in one line within seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from meta_opt.cli import configs
from meta_opt.errors import MetaOptError
from meta_opt.saved.pretrained import pretrained_path

QUIET = ("--trainer.enable_progress_bar", "false")
FEW = ("--model.episodes_per_epoch", "2", "--trainer.max_epochs", "1", *QUIET)
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)

RUBBISH: dict[str, tuple[bytes, str]] = {
    "laughs": ((LAUGHS + "model: *i\n").encode(), "stands for more than 100000 values"),
    "as a path": ((LAUGHS + "ckpt_path: *i\n").encode(), "stands for more than 100000 values"),
    "goes round": (b"model: &a [*a]\n", "stands for more than 100000 values"),
    "deep": (b"model: " + b"[" * 500 + b"]" * 500, "nested more than 32 deep"),
    "deeper": (b"model: " + b"[" * 50_000, "config"),
    "deep optimizee": (b"optimizee: " + b"{a: " * 5000 + b"}" * 5000, "nested more than 32 deep"),
    "long": (b"optimizee: " + b"x" * 300_000, "has 300011 characters"),
    "very long": (b"#" * 1_000_000, "has 1000000 bytes"),
    "binary": (bytes(range(256)), "is not text in UTF-8"),
    "latin": ("optimizee: é".encode("latin-1"), "is not text in UTF-8 (at byte 11)"),
    "a date": (b"model: {lr: 2020-99-99}", "has a value that cannot be"),
    "digits": (b"model: {num_steps: " + b"9" * 5000 + b"}", "has a value that cannot be"),
    "code": (
        b"model: !!python/object/apply:os.system [echo]",
        "--config mine.yaml: it is no YAML: line 1, column 8: could not determine a constructor",
    ),
    "half": (b"model: [", "--config mine.yaml: it is no YAML: line 2, column 1: did not find"),
    "nothing": (b"", "--config mine.yaml: it must say options by name, found nothing"),
    "a list": (b"- 1\n- 2\n", "--config mine.yaml: it must say options by name, found a list of 2"),
    "two ways": (b"model.num_steps: 10\nmodel: {lr: 0.1}\n", "says model.num_steps beside model, which is a mapping"),
    "two ways within": (b"model: {a: {b: 1}, a.c: 2}\n", "says a.c beside a, which is a mapping; say all of it in one"),
    "a hexadecimal": (b"model: {num_steps: 0x" + b"f" * 9000 + b"}\n", "has a value that cannot be: Exceeds the limit"),
    "a key twice": (b"model: {lr: 1, num_steps: 2}\ntrainer:\n  a: 1\nmodel: {}\n", "says 'model' twice (line 4)"),
    "one of one twice": (b"model: {lr: 1,\n num_steps: 2, lr: 3}", "says 'lr' twice (line 2)"),
}


@pytest.mark.parametrize("name", RUBBISH)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_what_cannot_be_read_is_said_in_one_line(meta_opt: Any, command: str, name: str) -> None:
    content, reason = RUBBISH[name]
    Path("mine.yaml").write_bytes(content)
    start = time.perf_counter()
    status, out, err = meta_opt(command, "--optimizee", "quadratic", "--config", "mine.yaml")
    assert time.perf_counter() - start < 10
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert reason in err
    assert len(err) < 1600


def test_what_is_no_file_is_said_in_one_line(meta_opt: Any) -> None:
    for path, reason in ((".", "this is no file"), ("nowhere.yaml", "File does not exist"), ("/dev/null", "no file")):
        status, _, err = meta_opt("fit", "--optimizee", "quadratic", "--config", path)
        assert status == 2
        assert reason in err


def test_aliases_are_read() -> None:
    assert configs.parse("a: &a {b: [1, 2]}\nc: *a\nd: *a\n")["d"] == {"b": [1, 2]}
    with pytest.raises(MetaOptError, match="stands for more"):
        configs.parse(LAUGHS)
    with pytest.raises(yaml.YAMLError, match="undefined alias"):
        configs.parse("a: *b")


def test_a_run_s_own_config_is_for_all_commands(meta_opt: Any) -> None:
    options = ("--optimizee.dimension", "3", "--early_stopping.patience", "7")
    assert meta_opt("fit", "--optimizee", "quadratic", *options, *FEW)[0] == 0
    path = Path("checkpoints/quadratic/run_0/config.yaml")
    for command in ("validate", "test"):
        status, out, err = meta_opt(command, "--ckpt_path", "best", "--config", path, "--model.num_test_problems", "3")
        assert status == 0, err
        assert "final_loss" in out
    few = ("--num_problems", "2", "--num_validation_problems", "2", "--baselines", "SGD", "--out", "out")
    status, _, err = meta_opt("compare", "--ckpt_path", "best", "--config", path, *few)
    assert status == 0, err
    # Of a file of one's own nothing is left out.
    Path("mine.yaml").write_text("early_stopping: {patience: 7}\n")
    status, _, err = meta_opt("test", "--ckpt_path", "best", "--config", "mine.yaml")
    assert status == 2
    assert "early_stopping" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizee", "quadratic", "--trainer", '{"default_root_dir": "out"}'),
        ("--optimizee", "quadratic", "--trainer", "trainer.yaml"),
        ("--config", "dots.yaml"),
        ("--config", "more.yaml"),
        ("--config", "my\nown.yaml"),
        ("--optimizee", "quadratic", "--trainer.default_root_dir=~/out"),
    ],
    ids=["json", "file", "dots", "more dots", "line end", "home"],
)
def test_options_that_are_read_first_are_read_however_they_are_said(
    meta_opt: Any, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("trainer.yaml").write_text("default_root_dir: out\n")
    Path("dots.yaml").write_text("optimizee: quadratic\ntrainer.default_root_dir: out\n")
    Path("more.yaml").write_text("optimizee.class_path: quadratic\ntrainer: {default_root_dir: out}\n")
    Path("my\nown.yaml").write_text("optimizee: quadratic\ntrainer:\n  default_root_dir: out\n")
    status, _, err = meta_opt("fit", *options, "--model.num_steps", "3", *FEW)
    assert status == 0, err
    assert sorted(path.name for path in Path("out").iterdir()) == ["checkpoints", "logs"]
    assert not Path("checkpoints").exists()


def test_a_class_that_is_said_among_the_options_of_its_group_is_that_of_the_config_that_is_written(
    meta_opt: Any,
) -> None:
    status, _, err = meta_opt(
        "fit",
        "--optimizee",
        "quadratic",
        "--model",
        '{"estimator": "es", "num_steps": 3}',
        "--model.unroll_length",
        "3",
        *FEW,
    )
    assert status == 0, err
    written = Path("checkpoints/quadratic/run_0/config.yaml")
    assert yaml.safe_load(written.read_text())["model"]["estimator"]["class_path"] == "es"
    status, _, err = meta_opt("fit", "--config", written)
    assert status == 0, err


def test_a_run_s_own_config_names_its_classes_in_files_to_compare() -> None:
    text = "# meta-opt 0.1.0: meta-opt fit --config THIS_FILE\noptimizer: {class_path: a/b.py:C}\nmodel: {lr: 1}\n"
    config = yaml.safe_load(text)
    assert yaml.safe_load(configs.of_a_run(text, config, "compare") or "") == {"optimizer": "a/b.py:C"}
    assert configs.of_a_run(text, config, "fit") is None
    assert configs.of_a_run(text.partition("\n")[2], config, "test") is None


def test_a_config_says_what_is_compared(meta_opt: Any) -> None:
    few = ("--num_steps", "2", "--num_problems", "2", "--num_validation_problems", "1", "--baselines", "SGD:lr=0.01")
    status, printed, err = meta_opt("compare", "--pretrained", "quadratic", *few, "--print_config")
    assert status == 0, err
    Path("mine.yaml").write_text(printed)
    for number, (more, expected) in enumerate(
        {
            (): ["quadratic"],
            ("--pretrained", "ntm_bfgs"): ["ntm_bfgs"],
            ("--ckpt_path", str(pretrained_path("lstm_gac"))): ["lstm_gac", "quadratic"],
        }.items()
    ):
        status, _, err = meta_opt("compare", "--config", "mine.yaml", *more)
        assert status == 0, err
        results = json.loads(Path(f"comparisons/quadratic/{number}/results.json").read_text())
        assert [*results["optimizers"]] == [*expected, "SGD:lr=0.01"]


@pytest.mark.parametrize("said", ["num_steps: 3", "pretrained: quadratic", "baselines: Adam"])
def test_what_must_be_a_list(said: str, meta_opt: Any) -> None:
    Path("mine.yaml").write_text(said)
    status, _, err = meta_opt("compare", "--pretrained", "quadratic", "--config", "mine.yaml")
    assert (status, err.count("\n")) == (2, 1)
    assert "an option of the config that takes several values must be a list, as in [3]" in err


@pytest.mark.parametrize("said", ["64-true", "64", "bf16-mixed"])
def test_precision_is_that_of_training(meta_opt: Any, said: str) -> None:
    assert meta_opt("fit", "--optimizee", "quadratic", "--trainer.precision", said, *FEW)[0] == 0
    for command in ("validate", "test"):
        status, out, _ = meta_opt(command, "--ckpt_path", "last", "--print_config")
        assert (status, str(yaml.safe_load(out)["trainer"]["precision"])) == (0, said)
    status, out, _ = meta_opt("compare", "--ckpt_path", "last", "--print_config")
    assert (status, yaml.safe_load(out)["precision"]) == (0, {"64": "64-true"}.get(said, said))


ODD: dict[str, str] = {
    "seed_everything: -1": "--seed_everything must be from 0 to 4294967295, not -1",
    f"seed_everything: {10**400}": "--seed_everything must be from 0 to 4294967295, not an integer of 1329 bits",
    f"early_stopping: {{min_delta: {10**400}}}": "an option has a value that cannot be: int too large",
    "early_stopping: -.inf": "--early_stopping must be options by name, not -inf",
    "model: 3": "--model must be options by name, not 3",
    "trainer: [1]": "--trainer must be options by name, not a list of 1",
    "optimizer: null": "--optimizer must be one of",
    "model: {num_problems: null}": "--model.num_problems must be int, not null",
    "trainer: {max_steps: null}": "--trainer.max_steps must be int, not null",
    "optimizee: {class_path: quadratic, init_args: {dimension: null}}": "--optimizee.dimension must be int, not null",
    "trainer: {devices: 1000000000}": "here, not 1000000000",
    "trainer: {devices: '5000'}": "here, not 5000",
    "optimizer: {class_path: coordinatewise_lstm, init_args: {hidden_size: 1000000000}}": "not enough memory",
}


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:40])
def test_odd_values_are_said_in_one_line(meta_opt: Any, text: str) -> None:
    Path("mine.yaml").write_text(text)
    status, out, err = meta_opt("fit", "--optimizee", "quadratic", "--config", "mine.yaml")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert ODD[text] in err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]
