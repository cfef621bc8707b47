import subprocess
import sys

import pytest

import meta_opt as package
from meta_opt import registry
from meta_opt.errors import RegistryError
from meta_opt.optimizees.contract import Optimizee


def test_names_of_what_ships_with_the_project():
    assert {"digits_mlp", "mnist_mlp", "quadratic"} <= set(registry.names("optimizee"))
    assert "coordinatewise_lstm" in registry.names("optimizer")


def test_load_and_name_of_are_inverse():
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert registry.name_of(registry.load(kind, name)) == name


def test_a_class_without_entry_point_is_named_by_its_path():
    assert registry.name_of(Optimizee) == "meta_opt.optimizees.contract.Optimizee"


def test_the_package_offers_plugins_and_public_names_as_attributes():
    assert package.quadratic is registry.load("optimizee", "quadratic")
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_thing"):
        package.no_such_thing  # noqa: B018


def test_a_plugin_of_another_distribution(plugins):
    bowl = registry.load("optimizee", "bowl")
    assert (bowl.__name__, bowl.__module__) == ("Bowl", "offered.good")
    assert str(registry.find("optimizee", "bowl")) == "optimizee 'bowl' of meta-opt-offered 1.2"


@pytest.mark.parametrize("path", ["bowl", "offered.good.Bowl", "meta_opt.bowl"])
def test_resolve_takes_names_and_paths(plugins, path):
    assert registry.resolve("optimizee", path) is registry.load("optimizee", "bowl")


FAILURES = {
    "quadratik": ["no optimizee is called 'quadratik'; did you mean 'quadratic'?", "digits_mlp", "mnist_mlp"],
    "contested": ["claimed by meta-opt-offered 1.2 and rival 3.4"],
    "needs_missing": [
        "'needs_missing' of meta-opt-offered 1.2",
        "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'",
    ],
    "no_such_class": ["does not import: AttributeError"],
    "no_such_module": ["does not import: ModuleNotFoundError"],
    "not_an_optimizee": ["offered.wrong:NotAnOptimizee must be a subclass of Optimizee"],
    "of_the_future": [
        "'of_the_future' of meta-opt-offered 1.2 cannot be used: it is written for version 99 of meta-opt's plugin",
        "interface, and this meta-opt has 2; install versions of the two that fit",
    ],
    "offered.wrong.OfTheFuture": ["it is written for version 99"],
    "raises": ["does not import: OSError: no luck today"],
    "syntax_error": ["does not import: SyntaxError"],
    "evaluation": ["meta_opt has a module of that name; meta-opt-offered must choose another"],
    "nowhere.Class": ["optimizee nowhere.Class does not import: ModuleNotFoundError"],
    "offered.good.torch": ["must be a subclass of Optimizee"],
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_is_said_when_it_is_asked_for(plugins, name):
    with pytest.raises(RegistryError) as error:
        registry.resolve("optimizee", name)
    for text in FAILURES[name]:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_imported_for_names():
    code = "import sys, meta_opt.registry as r; r.names('optimizee'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
