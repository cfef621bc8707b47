"""``meta-opt check``: the conformance kit on one class, without pytest; a line for each check."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from meta_opt import registry
from meta_opt.cli.files import find_class
from meta_opt.errors import MetaOptError
from meta_opt.messages import described, one_line, prose
from meta_opt.registry import Kind

USAGE = """\
usage: meta-opt check CLASS [--OPTION VALUE ...]

Check whether an optimizee, a learned optimizer or an estimator keeps its contract: the checks of meta_opt.testing, a
line each. The exit status is 1 if one fails.

arguments:
  CLASS             FILE.py:CLASS, MODULE.CLASS, or the name of an installed plugin
  --OPTION VALUE    an argument of its constructor

options:
  -h, --help        this text

examples:
  meta-opt check robust.py:RobustRegression
  meta-opt check robust.py:RobustRegression --num_inputs 20
  meta-opt check quadratic
"""


def run(options: list[str]) -> int:
    """Check a class; returns the exit status: 1 if a check fails.

    Raises:
        MetaOptError: If there is no such class, or it takes no such arguments.
    """
    if {"-h", "--help"} & set(options):
        print(USAGE, end="")
        return 0
    if not options or options[0].startswith("-"):
        raise MetaOptError("say what to check: FILE.py:CLASS, MODULE.CLASS or a name (see meta-opt check --help)")
    kind, cls = find_class(options[0])
    make = _maker(cls, options[1:])
    make()  # what cannot be made is an error, not a failed check
    print(f"{kind} {registry.reference(cls)}:", flush=True)
    started, failed = time.monotonic(), 0
    checks = _checks(kind)
    for each in checks:
        problem = _failure(each, make())
        failed += problem is not None
        about = prose((each.__doc__ or "").partition("\n")[0])
        name = each.__name__.replace("_", " ")
        print(f"  ok      {name}: {about}" if problem is None else f"  FAILED  {name}: {problem}", flush=True)
    seconds = time.monotonic() - started
    print(f"{len(checks) - failed} of {len(checks)} checks passed in {seconds:.1f} s")
    return 1 if failed else 0


def _checks(kind: Kind) -> tuple[Callable[[Any], None], ...]:
    from meta_opt import testing

    kits: dict[Kind, Callable[[], tuple[Callable[[Any], None], ...]]] = {
        "optimizee": testing.optimizee_checks,
        "optimizer": testing.optimizer_checks,
        "estimator": testing.estimator_checks,
    }
    return kits[kind]()


def _failure(check: Callable[[Any], None], subject: Any) -> str | None:
    """What a check finds wrong, in one line."""
    try:
        check(subject)
    except AssertionError as error:
        return one_line(str(error) or "an assertion failed")
    except MetaOptError as error:
        return one_line(str(error))
    except Exception as error:  # of the class that is checked
        return one_line(described(error, {type(subject).__module__}))
    return None


def _maker(cls: type[Any], options: list[str]) -> Callable[[], Any]:
    """What makes an object of the class, with the options as arguments, anew each time."""
    from meta_opt.cli.parser import Parser

    parser = Parser(prog="meta-opt check", allow_abbrev=False)
    parser.add_class_arguments(cls, "subject", fail_untyped=False)
    prefixed = [f"--subject.{option[2:]}" if option.startswith("--") else option for option in options]
    try:
        config = parser.parse_args(prefixed)
    except MetaOptError as error:
        raise MetaOptError(re.sub(r"(--)?subject\.", "--", str(error))) from error

    def make() -> Any:
        try:
            return parser.instantiate_classes(config).subject
        except MetaOptError:
            raise
        except Exception as error:
            raise MetaOptError(f"{cls.__name__} cannot be made: {described(error, {cls.__module__})}") from error

    return make
