import pytest

from meta_opt.cli import main
from meta_opt.cli.option_help import print_class_help
from meta_opt.errors import RegistryError


def lines_of(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_own_options_come_first_and_the_trainer_s_are_left_out(capsys):
    lines = lines_of(capsys, "fit", "--optimizee", "mnist_mlp", "--help")
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 90
    own = [
        "--optimizee mnist_mlp",
        "--optimizer coordinatewise_lstm",
        "--model.OPTION",
        "--model.estimator first_order",
    ]
    starts = [next(i for i, line in enumerate(lines) if line.startswith(part)) for part in own]
    assert starts == sorted(starts)
    assert starts[0] == 4
    assert "  --optimizee.hidden_sizes (list of int, default [20])" in lines
    assert any(line.startswith("  --trainer.max_epochs INT (default ") for line in lines)
    assert "meta-opt fit --help_all shows" in lines[-1]
    assert not any("gradient_clip_val" in line for line in lines)


def test_defaults_are_those_that_fit_would_use(capsys):
    text = "\n".join(lines_of(capsys, "fit", "--optimizee", "mnist_mlp", "--help"))
    assert "--model.unroll_length (int, default 50)" in text  # recommended; the class has 20
    assert "--optimizer.base_step (float, default 0.03)" in text
    quadratic = "\n".join(lines_of(capsys, "fit", "--optimizee", "quadratic", "--optimizer", "lstm_gac", "-h"))
    assert "--optimizer lstm_gac:" in quadratic
    assert "--optimizee quadratic:" in quadratic


def test_without_an_optimizee_the_names_are_there(capsys):
    text = " ".join("\n".join(lines_of(capsys, "fit", "--help")).split())
    assert "digits_mlp" in text
    assert "Name one to see its options here." in text
    assert (
        lines_of(capsys, "test", "--help")[0] == "usage: meta-opt test (--ckpt_path PATH | --pretrained NAME) [OPTIONS]"
    )


def test_help_all_is_everything(capsys):
    text = "\n".join(lines_of(capsys, "fit", "--optimizee", "digits_mlp", "--help_all"))
    for option in ("--trainer.gradient_clip_val", "--model.num_steps", "--early_stopping.patience"):
        assert option in text


@pytest.mark.parametrize("command", ["fit", "compare", "landscape"])
def test_help_of_no_class_lists_the_names(capsys, command):
    lines = lines_of(capsys, command, "--optimizee.help")
    assert lines[0].startswith("--optimizee takes one of these names")
    assert any(line.startswith("  quadratic ") for line in lines)
    assert lines[-1] == "--optimizee.help NAME shows the options of one."
    assert any("first_order" in line for line in lines_of(capsys, command, "--model.estimator.help"))


def test_help_of_a_class_that_is_chosen(capsys):
    lines = lines_of(capsys, "fit", "--optimizee", "quadratic", "--optimizee.help")
    assert lines[0].startswith("--optimizee quadratic: ")
    assert lines == lines_of(capsys, "fit", "--optimizee.help=quadratic")


def test_a_class_without_options_says_so(capsys):
    assert lines_of(capsys, "fit", "--optimizee.help", "digits_tuning")[-1] == "  It takes no options."


def test_required_options_and_functions(capsys):
    mixture = lines_of(capsys, "fit", "--optimizee.help", "mixture")
    assert "  --optimizee.parts (list of Optimizee, required)" in mixture
    module = lines_of(capsys, "fit", "--optimizee.help", "meta_opt.ModuleOptimizee")
    assert "  --optimizee.module (function, in Python only, required)" in module


def test_an_abstract_class_is_named_as_one(capsys):
    with pytest.raises(RegistryError, match=r"Optimizee is abstract.*; --optimizee\.help without a name lists"):
        print_class_help("optimizee", "meta_opt.optimizees.contract.Optimizee")
    assert main(["fit", "--optimizee.help", "quadratc"]) == 2
    assert "did you mean 'quadratic'?" in capsys.readouterr().err
