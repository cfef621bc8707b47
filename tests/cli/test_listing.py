"""``meta-opt list`` beside distributions with bad metadata, bad names and bad modules."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_opt import installed, registry
from meta_opt.cli import listing
from meta_opt.errors import RegistryError

GOOD = 'import torch\nfrom meta_opt.api import Optimizee\n\n\nclass A(Optimizee):\n    """A."""\n' + (
    "    def init_params(self, generator):\n        return {'t': torch.ones(5)}\n\n"
    "    def loss(self, params, problem, batch):\n        return params['t'].square().sum()\n"
)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path: its name, its entry points, and modules by their names."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def forget() -> None:
        importlib.invalidate_caches()
        for cached in (installed.installed, registry.plugins, listing._parse, listing._spec):
            cached.cache_clear()

    def add(name: str, entry_points: str | bytes, metadata: str | None = None, **modules: str) -> None:
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        text = entry_points.encode() if isinstance(entry_points, str) else entry_points
        (info / "entry_points.txt").write_bytes(text)
        if metadata != "none":
            (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        forget()

    yield add
    monkeypatch.undo()
    forget()


def rows(out: str) -> dict[str, str]:
    return {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}


def optimizees(**points: str) -> str:
    return "[meta_opt.optimizees]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())


MODULES = {
    "exits": ("raise SystemExit(0)\n", "does not import: SystemExit: 0 (mod_exits.py:1)"),
    "interrupts": ("raise KeyboardInterrupt\n", "does not import: KeyboardInterrupt (mod_interrupts.py:1)"),
    "raises": ("class X(BaseException): pass\nraise X\n", "does not import: X (mod_raises.py:2)"),
    "abstract": (
        "from meta_opt.api import Optimizee\nclass A(Optimizee): pass\n",
        "A is abstract, it lacks init_params",
    ),
    "settings": (
        f"{GOOD}\n    @classmethod\n    def recommended_settings(cls):\n        return 3\n",
        "A.recommended_settings must return a dict",
    ),
    "signature": (
        f"{GOOD}\n    def groups(self, params):\n        return {{}}\n",
        "A.groups must take (), it takes (params)",
    ),
}


def test_check_says_what_is_broken_and_goes_on(meta_opt: Any, install: Install) -> None:
    points = optimizees(**{name: f"mod_{name}:A" for name in MODULES}, fine="mod_fine:A")
    sources = {f"mod_{name}": source for name, (source, _) in MODULES.items()}
    install("bad", points, **sources, mod_fine=GOOD)
    status, out, _ = meta_opt("list", "--check")
    found = rows(out)
    assert status == 1
    for name, (_, problem) in MODULES.items():
        assert "BROKEN: " in found[name]
        assert problem in found[name].replace("packages/", "")
    assert found["fine"].split(maxsplit=3)[1:] == ["bad", "1.0", "A."]
    assert "BROKEN" not in found["quadratic"]
    assert meta_opt("list")[0] == 0


def test_check_of_what_is_all_right(meta_opt: Any, install: Install) -> None:
    install("good", optimizees(fine_too="mod_fine_too:A"), mod_fine_too=GOOD)
    status, out, _ = meta_opt("list", "--check")
    assert status == 0
    assert "BROKEN" not in out


def test_check_says_what_it_is_loading(meta_opt: Any, install: Install) -> None:
    source = "import sys\nsys.stdout.flush()\nprint('<loading>', flush=True)\n" + GOOD
    install("slow", optimizees(slow="mod_slow:A"), mod_slow=source)
    _, out, _ = meta_opt("list", "--check")
    before = out.partition("<loading>")[0].splitlines()
    assert before[-1].split() == ["slow", "slow", "1.0"]


NAMES = {
    "cli": "meta_opt has a module of that name; bad must choose another",
    "registry": "meta_opt has a module of that name; bad must choose another",
    "Optimizee": "meta_opt has a module of that name; bad must choose another",
    "annotations": "meta_opt has a module of that name; bad must choose another",
    "quadratic": "the name is meta-opt's own; bad must choose another",
    "coordinatewise_lstm": "the name is meta-opt's own; bad must choose another",
    "first_order": "the name is meta-opt's own; bad must choose another",
    "class": "a plugin's name must be a Python identifier that does not begin with an underscore",
    "a-b": "a plugin's name must be a Python identifier that does not begin with an underscore",
    "_hidden": "a plugin's name must be a Python identifier that does not begin with an underscore",
    "null": "YAML does not take that for a name",
    "True": "a plugin's name must be a Python identifier that does not begin with an underscore",
    "no_class": "its entry point must be MODULE:CLASS, found mod_names:",
    "nowhere": "its entry point must be MODULE:CLASS, found .nowhere:A",
    "empty": "its entry point must be MODULE:CLASS, found :A",
}


def test_names_that_cannot_be_used_break_nothing_else(meta_opt: Any, install: Install) -> None:
    values = {"no_class": "mod_names", "nowhere": ".nowhere:A", "empty": ":A"}
    install("bad", optimizees(**{name: values.get(name, "mod_names:A") for name in NAMES}), mod_names=GOOD)
    status, out, _ = meta_opt("list", "--check")
    broken = {line.split()[0]: line for line in out.splitlines() if "BROKEN: " in line}
    assert status == 1
    for name, problem in NAMES.items():
        assert "bad 1.0" in broken[name]
        assert f"BROKEN: {problem}".strip() in broken[name]
    assert set(broken) == set(NAMES)
    assert registry.load("optimizee", "quadratic").__module__ == "meta_opt_optimizees.quadratic"
    assert registry.load("optimizer", "coordinatewise_lstm").__name__ == "CoordinatewiseLSTM"
    from meta_opt import cli as module

    assert module.__name__ == "meta_opt.cli"
    assert meta_opt("fit", "--optimizee", "quadratic", "--print_config")[0] == 0


METADATA = {
    "not_text": b"[meta_opt.optimizees]\nx = mod:A\n\xff\xfe\n",
    "no_value": b"[meta_opt.optimizees]\nnonsense\n",
    "no_section": b"x = meta_opt.optimizees\n",
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_cannot_be_read(meta_opt: Any, install: Install, name: str) -> None:
    install("unreadable", METADATA[name])
    install("good", optimizees(fine="mod_fine3:A"), mod_fine3=GOOD)
    status, out, _ = meta_opt("list")
    assert status == 0
    assert "BROKEN" not in rows(out)["fine"]
    assert "quadratic" in rows(out)
    if name != "no_section":
        assert "metadata that cannot be read:\n" in out
        assert "unreadable-1.0.dist-info" in out
        assert meta_opt("list", "--check")[0] == 1
    with pytest.raises(RegistryError, match="no optimizee is called 'x'"):
        registry.load("optimizee", "x")


@pytest.mark.parametrize("command", [("list", "--check"), ("fit", "--optimizee", "quadratic")])
def test_metadata_that_torch_cannot_read(install: Install, tmp_path: Path, command: tuple[str, ...]) -> None:
    install("unreadable", METADATA["not_text"])
    program = "import sys; from meta_opt.cli import main; sys.exit(main())"
    path = os.pathsep.join(sys.path)  # with the folder of the distribution
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    folder = tmp_path / "packages" / "unreadable-1.0.dist-info"
    said = f"meta-opt: error: metadata that torch needs cannot be read; mend or remove {folder}: UnicodeDecodeError: "
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_distribution_without_metadata(meta_opt: Any, install: Install) -> None:
    install("bare", optimizees(bare="mod_bare:A"), metadata="none", mod_bare=GOOD)
    _, out, _ = meta_opt("list")
    assert "BROKEN" not in rows(out)["bare"]
    assert registry.load("optimizee", "bare").__module__ == "mod_bare"


def test_control_characters_are_not_printed(meta_opt: Any, install: Install) -> None:
    source = GOOD.replace('"""A."""', '"""\\x1b[31mRed\\x07 \\N{BELL}."""')
    install("red", optimizees(red="mod_red:A", **{"a\x1b[32mb": "mod_red:A"}), mod_red=source)
    _, out, _ = meta_opt("list")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[31mRed" in rows(out)["red"]
    _, out, _ = meta_opt("list", "red")
    assert "\x1b" not in out


def test_docstrings_are_shown_without_markup(meta_opt: Any) -> None:
    _, out, _ = meta_opt("list")
    assert rows(out)["landscape"].endswith("started; meta-opt landscape draws them.")
    assert "`" not in out


def test_names_of_other_kinds_are_found(meta_opt: Any) -> None:
    status, out, _ = meta_opt("list", "first_order")
    assert status == 0
    assert out.startswith("estimator first_order  meta-opt 0.")


def test_pretrained_optimizers_are_listed(meta_opt: Any) -> None:
    status, out, _ = meta_opt("list")
    assert status == 0
    lines = out.partition("pretrained optimizers (ratios to the best tuned baseline):\n")[2].splitlines()
    index = next(index for index, line in enumerate(lines) if line.startswith("  digits_mlp "))
    assert lines[index].endswith("  An optimizer for a small sigmoid network (64-20-10) on 8×8 digits")
    assert lines[index + 1] == "    62 kB; sum of losses 0.10x, final loss 0.0004x in 100 steps"


def test_a_pretrained_optimizer_by_name(meta_opt: Any) -> None:
    status, out, _ = meta_opt("list", "general_mlp", "digits_mlp")
    assert status == 0
    first, _, second, _, third, *_ = out.splitlines()
    assert first.startswith("pretrained general_mlp  ")
    assert second.startswith("pretrained digits_mlp  ")
    assert third.startswith("optimizee digits_mlp  ")


def test_classes_that_are_no_plugins_are_shown_with_what_they_recommend(meta_opt: Any, tmp_path: Path) -> None:
    Path("listed.py").write_text(
        "from meta_opt_optimizees.quadratic import Quadratic\n"
        "class Mine(Quadratic):\n"
        '    """My own."""\n'
        "    @classmethod\n"
        "    def recommended_settings(cls): return {'model.num_steps': 7}\n"
        "class Other: pass\n"
    )
    assert meta_opt("list", "listed.py:Mine") == (
        0,
        "optimizee listed.py:Mine  My own.\n  --model.num_steps 7\n",
        "",
    )
    status, out, _ = meta_opt("list", "meta_opt.optimizers.learned_soap.LearnedSOAP")
    assert (status, out.split()[0]) == (0, "optimizer")
    for said, message in {
        "listed.py:Other": "listed.py:Other is no optimizee, optimizer or estimator: it must be a subclass of one",
        "listed.py": "say which class of listed.py is meant, as listed.py:CLASS",
        "quadratc": "nothing is called 'quadratc'; did you mean 'quadratic'? See meta-opt list",
        "generl": "nothing is called 'generl'; did you mean 'general'?",
    }.items():
        status, out, err = meta_opt("list", said)
        assert (status, out) == (2, "")
        assert err.startswith(f"meta-opt: error: {message}")
