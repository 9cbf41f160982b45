"""Reading of recipe and command line: precedence, messages, and what goes together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Config, DataConfig, ModelConfig, RunConfig, config_to_yaml, load_config, parse_command_line
from pipeline.config.changes import Change
from pipeline.config.checks import check
from pipeline.config.parsing import FIELD_TYPES
from pipeline.errors import UserError

# The least that makes a run; every other setting has a default.
LEAST = {
    "data.train": "train.txt",
    "data.validation": "validation.txt",
    "model.name_or_path": "gpt2",
    "run.output_dir": "runs/test",
}
A_LIST = "must be a list, written [0, 1], each a whole number; correct it."
SWITCHES = {"resume": "Go on.", "overwrite": "Replace."}


def parse(**settings: object) -> Config:
    """Parse the least settings with these on top; ``__`` in a name stands for the dot."""
    dotted = {**LEAST, **{name.replace("__", "."): value for name, value in settings.items()}}
    argv = [f"--{name}={value}" for name, value in dotted.items()]
    return parse_command_line(argv, "tacit train")[0]


def write_recipe(folder: Path, recipe: dict[str, Any], name: str = "recipe.yaml") -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return str(path)


def least_recipe() -> dict[str, Any]:
    recipe: dict[str, Any] = {}
    for dotted, value in LEAST.items():
        section, name = dotted.split(".")
        recipe.setdefault(section, {})[name] = value
    return recipe


def lines_of(error: pytest.ExceptionInfo[UserError]) -> list[str]:
    return str(error.value).split("\n")


# Precedence


def test_defaults_are_the_papers() -> None:
    config = parse()
    assert (config.removal.side, config.removal.unit, config.removal.smoothing_lambda) == ("left", "token", 4.0)
    assert (config.schedule.kind, config.schedule.removed_per_epoch) == ("fixed", 8.0)
    assert (config.optim.lr, config.optim.lr_schedule, config.optim.global_batch_size) == (5e-5, "constant", 32)
    assert (config.optim.max_grad_norm, config.optim.reset_at_stage) == (1.0, True)
    assert config.format.first_separator == config.format.second_separator == config.format.end == "{eos}"
    assert config.format.keep_second_separator


@pytest.mark.parametrize("config_stands", ["first", "between", "last"])
def test_command_line_wins_over_recipe_wins_over_defaults(tmp_path: Path, config_stands: str) -> None:
    recipe = least_recipe() | {"optim": {"lr": 1e-3, "eps": 1e-6}, "removal": {"side": "right"}}
    options = [["--optim.lr", "2e-3"], ["--removal.smoothing_lambda=8"]]
    options.insert({"first": 0, "between": 1, "last": 2}[config_stands], ["--config", write_recipe(tmp_path, recipe)])
    config, _ = parse_command_line([part for option in options for part in option], "tacit train")
    assert config.optim.lr == 2e-3  # command line over recipe
    assert config.removal.smoothing_lambda == 8.0  # command line over default
    assert (config.optim.eps, config.removal.side) == (1e-6, "right")  # recipe over default
    assert config.optim.global_batch_size == 32  # a section of which the recipe sets a part keeps the rest


def test_later_recipe_wins_setting_by_setting(tmp_path: Path) -> None:
    first = write_recipe(tmp_path, least_recipe() | {"optim": {"lr": 1e-3, "eps": 1e-6}}, "first.yaml")
    second = write_recipe(tmp_path, {"optim": {"lr": 3e-3}}, "second.yaml")
    config, _ = parse_command_line(["--config", first, "--config", second], "tacit train")
    assert (config.optim.lr, config.optim.eps) == (3e-3, 1e-6)


def test_override_reaches_inside_a_model_from_scratch(tmp_path: Path) -> None:
    recipe = least_recipe() | {
        "model": {"tokenizer": "words", "from_scratch": {"model_type": "gpt2", "n_layer": 2, "n_head": 4}}
    }
    argv = ["--model.from_scratch.n_layer", "3", "--config", write_recipe(tmp_path, recipe)]
    config, _ = parse_command_line(argv, "tacit train")
    assert config.model.from_scratch == {"model_type": "gpt2", "n_layer": 3, "n_head": 4}


def test_switches_are_told_apart_from_settings() -> None:
    argv = ["--resume", *(f"--{name}={value}" for name, value in LEAST.items())]
    config, given = parse_command_line(argv, "tacit train", SWITCHES)
    assert given == {"resume"}
    assert config == parse()


def test_an_empty_recipe_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    argv = [f"--config={path}", *(f"--{name}={value}" for name, value in LEAST.items())]
    assert parse_command_line(argv, "tacit train")[0] == parse()


def test_a_section_without_settings_sets_nothing(tmp_path: Path) -> None:
    # What is left when every line of a section is commented out.
    path = tmp_path / "recipe.yaml"
    path.write_text("optim:\n  # lr: 1e-3\nschedule:\n  adaptive:\n")
    argv = [f"--config={path}", *(f"--{name}={value}" for name, value in LEAST.items())]
    assert parse_command_line(argv, "tacit train")[0] == parse()


# Values

TYPED = [
    ("optim.lr", "3e-4", 3e-4),  # YAML 1.1 alone reads this as text
    ("optim.eps", "1", 1.0),
    ("optim.betas", "[0.9, 0.95]", (0.9, 0.95)),
    ("optim.reset_at_stage", "false", False),
    ("removal.smoothing_lambda", ".inf", math.inf),
    ("schedule.max_steps", "null", None),
    ("run.keep_stages", "[0, 5]", [0, 5]),
    ("format.second_separator", "", ""),
    ("format.first_separator", " = ", " = "),
    # Text stays text, whatever YAML would make of it.
    ("model.tokenizer", "123", "123"),
    ("run.output_dir", "no", "no"),
    ("data.train_split", "null", "null"),
]


@pytest.fixture(scope="module")
def typed_config() -> Config:
    """Everything in ``TYPED`` on one command line: parsing takes a while."""
    return parse(**{name.replace(".", "__"): text for name, text, _ in TYPED})


@pytest.mark.parametrize(("name", "text", "value"), TYPED)
def test_values_as_typed_at_the_shell(typed_config: Config, name: str, text: str, value: object) -> None:
    read: Any = typed_config
    for part in name.split("."):
        read = getattr(read, part)
    assert read == value
    assert type(read) is type(value)


def test_exponent_without_a_point_is_a_number_in_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(least_recipe()) + "optim:\n  lr: 3e-4\n")
    assert load_config(path).optim.lr == 3e-4


def test_model_from_scratch_as_typed_at_the_shell() -> None:
    config = parse(
        model__name_or_path="", model__tokenizer="words", model__from_scratch="{model_type: gpt2, n_layer: 1}"
    )
    assert config.model.from_scratch == {"model_type": "gpt2", "n_layer": 1}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model: {tokenizer: 123}", "model.tokenizer (123) must be text; correct it."),
        ("model: {tokenizer: null}", "model.tokenizer (None) must be text; correct it."),
        ("optim: {lr: null}", "optim.lr (None) must be a number; correct it."),
        ("optim: {lr: true}", "optim.lr (True) must be a number; correct it."),
        ("optim: {lr: '[x'}", "optim.lr ('[x') is not valid YAML ("),
        ("optim: {global_batch_size: 8.0}", "optim.global_batch_size (8.0) must be a whole number; correct it."),
        ("optim: {reset_at_stage: 1}", "optim.reset_at_stage (1) must be true or false; correct it."),
        ("optim: {betas: [1]}", "optim.betas ([1]) must be a list of 2, written [A, B], each a number; correct it."),
        ("removal: {side: no}", "removal.side (False) must be one of left, right; correct it."),
        ("run: {keep_stages: 5}", f"run.keep_stages (5) {A_LIST}"),
        ("run: {keep_stages: '0,1'}", f"run.keep_stages ('0,1') {A_LIST}"),
        ("run: {keep_stages: null}", f"run.keep_stages (None) {A_LIST}"),
        ("run: {keep_stages: [1, a]}", f"run.keep_stages ([1, 'a']) {A_LIST}"),
        ("schedule: {max_steps: x}", "schedule.max_steps ('x') must be a whole number, or null; correct it."),
        ("model: {from_scratch: [1]}", "model.from_scratch ([1]) must be settings by name, or null; correct it."),
        (
            "model: {from_scratch: {1: a}}",
            "model.from_scratch ({1: 'a'}) must be settings by name, or null; correct it.",
        ),
    ],
)
def test_a_recipes_value_of_another_type_is_refused(tmp_path: Path, setting: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(setting)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert any(line.startswith(says) for line in lines_of(error)), error.value


def test_settings_of_the_architecture_are_read_as_they_stand(tmp_path: Path) -> None:
    scratch = {
        "model_type": "gpt2",
        "act": "no",
        "sizes": ["1", 2],
        "rope": {"theta": 1e6},
        "call": {"class_path": "x.y"},
    }
    recipe = least_recipe() | {"model": {"tokenizer": "words", "from_scratch": scratch}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe).replace("1000000.0", "1e6"))  # which is text to YAML 1.1
    argv = ["--config", str(path), "--model.from_scratch.rope.scale", "1e-2", "--model.from_scratch.n_layer", "3"]
    config, _ = parse_command_line(argv, "tacit train")
    assert config.model.from_scratch == scratch | {"rope": {"theta": 1e6, "scale": 0.01}, "n_layer": 3}
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config


def test_wrong_types_name_field_and_value() -> None:
    wrong = {
        "optim.lr": "fast",
        "optim.global_batch_size": "8.5",
        "optim.betas": "[0.9]",
        "optim.reset_at_stage": "maybe",
        "removal.side": "lef",
        "schedule.kind": "adaptve",
        "schedule.max_steps": "many",
        "data.on_bad_row": "ignore",
        "run.keep_stages": "all",
    }
    with pytest.raises(UserError) as error:
        parse(**{name.replace(".", "__"): text for name, text in wrong.items()})
    for line, (name, text) in zip(lines_of(error), wrong.items(), strict=True):
        assert line.startswith(f"{name} (")
        assert text in line


def test_wrong_choice_lists_the_right_ones() -> None:
    with pytest.raises(UserError, match=r"removal\.side.*left.*right"):
        parse(removal__side="middle")


# Unknown settings

NEAREST = {
    "optim.lrr": "optim.lr",
    "optimm.eps": "optim.eps",
    "schedule.removed_per_epochs": "schedule.removed_per_epoch",
    "schedule.adaptive.windw": "schedule.adaptive.window",
    "removal.delta.smoothing_lamda": "removal.smoothing_lambda",
    "seed": "run.seed",  # right name, section forgotten
    "global_batch_size": "optim.global_batch_size",
    "model.from_scrach": "model.from_scratch",
    "nothing.of_this_kind": None,
}


@pytest.mark.parametrize("place", ["recipe", "command line", "command line with ="])
def test_unknown_settings_name_the_nearest(tmp_path: Path, place: str) -> None:
    recipe = least_recipe()
    argv = []
    for wrong in NEAREST:
        if place == "recipe":
            *sections, name = wrong.split(".")
            branch = recipe
            for section in sections:
                branch = branch.setdefault(section, {})
            branch[name] = 1
        else:
            argv += [f"--{wrong}", "1"] if place == "command line" else [f"--{wrong}=1"]
    with pytest.raises(UserError) as error:
        parse_command_line(["--config", write_recipe(tmp_path, recipe), *argv], "tacit train")
    said = dict(line.split(": unknown setting. ") for line in lines_of(error))
    assert said == {
        wrong: f"Did you mean {near}?" if near else "`--help` lists the settings." for wrong, near in NEAREST.items()
    }


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    recipe = least_recipe() | {"optim": {"lrr": 1, "eps": "small"}, "removl": {"side": "left"}}
    argv = ["--config", write_recipe(tmp_path, recipe), "--run.sed=3", "--schedule.kind=slow"]
    with pytest.raises(UserError) as error:
        parse_command_line(argv, "tacit train")
    starts = [line.split(" ")[0].rstrip(":") for line in lines_of(error)]
    assert starts == ["optim.lrr", "optim.eps", "removl.side", "run.sed", "schedule.kind"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--optim.lr"], "--optim.lr has no value"),
        (["--optim.lr", "--optim.eps=1e-8"], "--optim.lr has no value"),
        (["--resme"], "Did you mean resume?"),
        (["recipe.yaml"], "recipe.yaml: not an option"),
        (["-x"], "-x: not an option"),
    ],
)
def test_malformed_options_are_refused(argv: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_command_line(argv, "tacit train", SWITCHES)
    assert says in str(error.value)


# What goes together


def configured(**settings: object) -> Config:
    """Build the configuration that ``parse`` would, without its text."""
    config = Config(
        DataConfig("train.txt", "validation.txt"), model=ModelConfig("gpt2"), run=RunConfig(output_dir="runs/test")
    )
    for name, value in settings.items():
        config = _with_value(config, name.split("__"), value)
    return config


def _with_value(section: Any, names: list[str], value: object) -> Any:
    name, *rest = names
    return replace(section, **{name: _with_value(getattr(section, name), rest, value) if rest else value})


ADAPTIVE = {"schedule__kind": "adaptive"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data__train": ""}, ["data.train"]),
        ({"data__validation": ""}, ["data.validation"]),
        ({"run__output_dir": ""}, ["run.output_dir"]),
        ({"data__num_train": 0}, ["data.num_train"]),
        ({"data__max_tokens": 0}, ["data.max_tokens"]),
        ({"schedule__hold_epochs": -1}, ["schedule.hold_epochs"]),
        ({"schedule__start_removed": -1}, ["schedule.start_removed"]),
        ({"schedule__remove_all_beyond": 0}, ["schedule.remove_all_beyond"]),
        ({"schedule__final_epochs": -0.5}, ["schedule.final_epochs"]),
        ({"schedule__max_steps": 0}, ["schedule.max_steps"]),
        ({"schedule__removed_per_epoch": 0}, ["schedule.removed_per_epoch"]),
        ({"schedule__start_removed": 40, "schedule__remove_all_beyond": 39}, ["start_removed (40)", "beyond (39)"]),
        ({"schedule__kind": "no_cot", "schedule__final_epochs": 0}, ["schedule.final_epochs", "no_cot"]),
        ({"schedule__kind": "explicit_cot", "schedule__final_epochs": 0}, ["schedule.final_epochs", "explicit_cot"]),
        ({**ADAPTIVE, "schedule__adaptive__window": 0}, ["schedule.adaptive.window"]),
        ({**ADAPTIVE, "schedule__adaptive__min_steps": 0}, ["schedule.adaptive.min_steps"]),
        ({**ADAPTIVE, "schedule__adaptive__slow_down": 0.5}, ["schedule.adaptive.slow_down"]),
        ({**ADAPTIVE, "schedule__adaptive__removed_per_stage": 0}, ["schedule.adaptive.removed_per_stage"]),
        ({**ADAPTIVE, "schedule__adaptive__stops": [4, 3]}, ["schedule.adaptive.stops ([4, 3])", "rise"]),
        ({**ADAPTIVE, "schedule__adaptive__stops": [0, 3]}, ["schedule.adaptive.stops ([0, 3])"]),
        ({**ADAPTIVE, "schedule__adaptive__stops": [-1, 3]}, ["schedule.adaptive.stops ([-1, 3])"]),
        (
            {**ADAPTIVE, "schedule__adaptive__stops": [3], "schedule__adaptive__removed_per_stage": 2},
            ["stops and removed_per_stage"],
        ),
        ({**ADAPTIVE, "schedule__adaptive__loss_threshold": 0}, ["schedule.adaptive.loss_threshold"]),
        ({**ADAPTIVE, "schedule__adaptive__relative_threshold": -1}, ["schedule.adaptive.relative_threshold"]),
        ({**ADAPTIVE, "schedule__adaptive__loss_threshold": None}, ["loss_threshold and relative_threshold"]),
        (
            {**ADAPTIVE, "schedule__adaptive__min_steps": 70, "schedule__adaptive__max_steps": 60},
            ["max_steps (60)", "min_steps (70)"],
        ),
        (
            {**ADAPTIVE, "schedule__adaptive__window": 70, "schedule__adaptive__max_steps": 60},
            ["max_steps (60)", "window (70)"],
        ),
        ({"removal__smoothing_lambda": 0}, ["removal.smoothing_lambda"]),
        ({"removal__smoothing_lambda": math.nan}, ["removal.smoothing_lambda"]),
        ({"removal__earlier_share": 1}, ["removal.earlier_share (1)", "[0, 1)"]),
        ({"removal__earlier_share": -0.1}, ["removal.earlier_share (-0.1)"]),
        ({"removal__earlier_share": math.nan}, ["removal.earlier_share"]),
        ({"removal__earlier_from": 4}, ["removal.earlier_from (4)", "removal.earlier_share"]),
        ({"removal__earlier_from": -1, "removal__earlier_share": 0.5}, ["removal.earlier_from (-1)"]),
        ({"removal__keep_positions": True, "removal__side": "right"}, ["removal.keep_positions", "removal.side"]),
        ({"removal__keep_positions": True, "removal__unit": "step"}, ["removal.keep_positions", "removal.unit"]),
        ({"removal__right_first": -1}, ["removal.right_first (-1)"]),
        ({"removal__right_first": 3, "removal__side": "right"}, ["removal.right_first (3)", "right and token"]),
        ({"removal__right_first": 3, "removal__unit": "step"}, ["removal.right_first (3)", "left and step"]),
        ({"optim__lr": 0}, ["optim.lr"]),
        ({"optim__lr": math.nan}, ["optim.lr"]),
        ({"optim__eps": 0}, ["optim.eps"]),
        ({"optim__betas": (0.9, 1.0)}, ["optim.betas", "[0.9, 1.0]"]),
        ({"optim__weight_decay": -1}, ["optim.weight_decay"]),
        ({"optim__max_grad_norm": -1}, ["optim.max_grad_norm"]),
        ({"optim__global_batch_size": 0}, ["optim.global_batch_size"]),
        ({"optim__warmup_steps": -1}, ["optim.warmup_steps"]),
        ({"optim__warmup_steps": 50, "schedule__max_steps": 50}, ["optim.warmup_steps (50)", "max_steps (50)"]),
        ({**ADAPTIVE, "optim__lr_schedule": "cosine"}, ["optim.lr_schedule (cosine)", "schedule.max_steps"]),
        ({"optim__final_decay": 1.5}, ["optim.final_decay (1.5)", "[0, 1]"]),
        ({"optim__final_decay": -0.1}, ["optim.final_decay (-0.1)", "[0, 1]"]),
        ({"optim__final_decay": math.nan}, ["optim.final_decay"]),
        ({"optim__final_decay": 0.5, "optim__lr_schedule": "linear"}, ["lr_schedule (linear)", "final_decay (0.5)"]),
        ({"engine__micro_batch_tokens": 0}, ["engine.micro_batch_tokens"]),
        ({"engine__num_threads": 0}, ["engine.num_threads"]),
        ({"evaluation__every_steps": 0}, ["evaluation.every_steps"]),
        ({"evaluation__every_stages": 0}, ["evaluation.every_stages"]),
        ({"evaluation__num_examples": 0}, ["evaluation.num_examples"]),
        ({"evaluation__batch_size": 0}, ["evaluation.batch_size"]),
        ({"run__log_every": 0}, ["run.log_every"]),
        ({"run__checkpoint_every": 0}, ["run.checkpoint_every"]),
        ({"run__keep_checkpoints": 0}, ["run.keep_checkpoints"]),
        ({"run__seed": -1}, ["run.seed"]),  # NumPy's generators take no negative seed
        ({"model__name_or_path": ""}, ["model.name_or_path", "model.from_scratch", "neither"]),
        (
            {"model__tokenizer": "words", "model__from_scratch": {"model_type": "gpt2"}},
            ["model.name_or_path", "model.from_scratch", "both"],
        ),
        ({"model__name_or_path": "", "model__from_scratch": {"model_type": "gpt2"}}, ["model.tokenizer"]),
        (
            {"model__name_or_path": "", "model__tokenizer": "words", "model__from_scratch": {"n_layer": 1}},
            ["model.from_scratch", "model_type"],
        ),
        ({"format__question": "Q:"}, ["format.question", "{question}"]),
        ({"format__question": "{question} {question}"}, ["format.question", "exactly once"]),
        ({"format__cot": "{steps}"}, ["format.cot", "{cot}"]),
        ({"format__answer": ""}, ["format.answer", "{answer}"]),
        ({"format__cot": "{bos}{cot}"}, ["format.cot", "{bos}"]),
        ({"format__question": "Q {bos}{question}"}, ["format.question", "{bos}"]),
        ({"format__end": ""}, ["format.end"]),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_run_are_refused(settings: dict[str, object], named: list[str]) -> None:
    (line,) = check(configured(**settings))  # one fault, one line
    assert all(name in line for name in named), line


@pytest.mark.parametrize(
    "settings",
    [
        {"optim__max_grad_norm": 0},
        {"schedule__final_epochs": 0},
        {"schedule__kind": "no_cot", "schedule__final_epochs": 0, "schedule__max_steps": 10},
        {"schedule__start_removed": 39, "schedule__remove_all_beyond": 39},
        {"removal__keep_positions": True},
        {**ADAPTIVE, "optim__lr_schedule": "cosine", "schedule__max_steps": 100},
        {"optim__lr_schedule": "linear"},
        {**ADAPTIVE, "optim__final_decay": 1.0},
        {**ADAPTIVE, "schedule__adaptive__loss_threshold": None, "schedule__adaptive__relative_threshold": 1.5},
        {"optim__warmup_steps": 49, "schedule__max_steps": 50},
        {"format__first_separator": "", "format__second_separator": "", "format__keep_second_separator": False},
        {"format__question": "{question}", "format__first_separator": "<|im_end|>\n<think>\n"},
    ],
    ids=str,
)
def test_settings_at_the_edge_of_the_rules_pass(settings: dict[str, object]) -> None:
    assert check(configured(**settings)) == []


def test_rules_are_checked_all_at_once() -> None:
    with pytest.raises(UserError) as error:
        parse(optim__lr=0, removal__keep_positions="true", removal__side="right", run__log_every=0, data__train="")
    assert len(lines_of(error)) == 4


# Written and read again


@pytest.mark.parametrize(
    "settings",
    [
        {
            **ADAPTIVE,
            "schedule__adaptive__loss_threshold": None,
            "schedule__adaptive__relative_threshold": 1.5,
            "removal__smoothing_lambda": math.inf,
            "optim__betas": (0.8, 0.9),
            "run__keep_stages": [0, 12],
            "format__first_separator": "→",
            "data__train": "no",
            "model__tokenizer": "007",
            "optim__lr": 1e-5,
        },
        {
            "model__name_or_path": "",
            "model__tokenizer": "words",
            "model__from_scratch": {"model_type": "gpt2", "n_embd": 8, "attn_pdrop": 0.0},
            "format__first_separator": " = ",
            "format__cot": "Kette: {cot}\n",
            "format__second_separator": "",
        },
    ],
    ids=["pretrained", "from scratch"],
)
def test_yaml_reads_back_to_the_same_configuration(tmp_path: Path, settings: dict[str, object]) -> None:
    config = configured(**settings)
    path = tmp_path / "recipe.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_yaml_writes_every_setting_out() -> None:
    written = yaml.safe_load(
        config_to_yaml(Config(DataConfig("a", "b"), model=ModelConfig("gpt2"), run=RunConfig("c")))
    )
    assert list(written) == [
        "data", "format", "model", "lora", "removal", "schedule", "optim", "engine", "evaluation", "run"
    ]  # fmt: skip
    assert written["schedule"]["adaptive"]["slow_down"] == 2.0
    assert written["optim"]["betas"] == [0.9, 0.999]


def test_print_config_shows_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, least_recipe() | {"optim": {"lr": 1e-3}})
    with pytest.raises(SystemExit) as stopped:
        parse_command_line(["--config", recipe, "--print_config", "--run.seed=5"], "tacit train")
    assert stopped.value.code == 0
    assert capsys.readouterr().out == config_to_yaml(parse(optim__lr=1e-3, run__seed=5))


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"optim:\n  lr: [1,\n", "recipe.yaml:3: not valid YAML"),
        (b"optim:\n\tlr: 1\n", "recipe.yaml:2: not valid YAML"),
        (b"optim: !!python/object/apply:os.system ['true']\n", "recipe.yaml:1: not valid YAML"),
        ("name: ü".encode("latin-1"), "not UTF-8"),
        (b"optim: {lr: 1}\noptim: {eps: 1}\n", "recipe.yaml:2: not valid YAML (optim stands here again)"),
        (b"optim: &a {lr: 1}\nschedule: *a\n", "recipe.yaml:2: not valid YAML (*a stands for more than one value)"),
        (b"optim: " + b"[" * 100, "recipe.yaml:1: not valid YAML (nested deeper than 50 levels)"),
        (b"run: {output_dir: 2001-99-99}", "recipe.yaml:1: not valid YAML (not the value that it looks like)"),
        (b"run: {seed: 0x" + b"f" * 5000 + b"}", "recipe.yaml:1: not valid YAML (a whole number of more than 64 bits)"),
        (b"optim: {lr: \x00}", "not valid YAML (unacceptable character"),
        (b"#" * 70_000, "longer than 65,536 characters"),
        (b"- optim\n- lr\n", "holds a list"),
        (b"just text", "holds a str"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_unreadable_recipes_are_the_users_mistake(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(path)
    (line,) = lines_of(error)
    assert says in line
    assert str(path) in line


def test_an_alias_may_stand_for_one_value(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(least_recipe()) + "format: {first_separator: &s '{eos}', second_separator: *s}\n")
    assert load_config(path).format.second_separator == "{eos}"


def test_a_name_that_no_file_can_have_is_no_recipe() -> None:
    for name in ("a\0b", "a" * 300):
        with pytest.raises(UserError, match="cannot be read"):
            load_config(Path(name))


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": {"alpha": 8}}, "lora.alpha (8) is set, but lora.rank is not"),
        ({"lora": {"targets": ["q_proj"]}}, "lora.targets (['q_proj']) is set, but lora.rank is not"),
        ({"model": {"name_or_path": "gpt2", "quantization": "nf4"}}, "model.quantization (nf4) freezes the model"),
        ({"lora": {"rank": 4, "dropout": 1.0}}, "lora.dropout (1.0) must be in [0, 1)"),
        ({"lora": {"rank": 0}}, "lora.rank (0) must be at least 1"),
    ],
)
def test_adapters_and_their_base(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Path(write_recipe(tmp_path, least_recipe() | settings)))
    assert message in str(error.value)


def test_adapters_and_more_positions_need_a_trained_model(tmp_path: Path) -> None:
    model = {"from_scratch": {"model_type": "gpt2"}, "tokenizer": "words", "num_positions": 9}
    with pytest.raises(UserError) as error:
        load_config(Path(write_recipe(tmp_path, least_recipe() | {"model": model, "lora": {"rank": 4}})))
    assert "lora.rank (4) needs trained weights" in str(error.value)
    assert "model.num_positions (9) is for a trained model" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("schedule.final_epochs", ".inf"),
        ("schedule.removed_per_epoch", "1e-320"),
        ("optim.lr", ".inf"),
        ("run.keep_stages", "[0, -1]"),
        ("engine.num_threads", "9223372036854775807"),
        ("engine.num_threads", "5000"),
        ("engine.rank_timeout", "1"),
        ("optim.max_nonfinite", "0"),
        ("run.collapse_ratio", "0"),
        ("run.checkpoint_minutes", "0"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(setting: str, value: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_command_line(["--config=recipes/demo.yaml", f"--{setting}", value], "tacit train")
    assert [line.startswith(f"{setting} (") for line in str(refused.value).splitlines()] == [True]


# What a resumed run may change

FREE = {
    "data.train",
    "data.train_split",  # of a Hub name, whose rows are compared as a file's are
    "data.validation",
    "data.validation_split",
    "data.cache_dir",
    "model.padding_free",
    "schedule.final_epochs",
    "schedule.max_steps",
    "schedule.adaptive.loss_threshold",
    "schedule.adaptive.min_steps",
    "schedule.adaptive.max_steps",
    "optim.final_decay",
    "optim.on_nonfinite",
    "optim.max_nonfinite",
    "engine.micro_batch_tokens",
    "engine.num_threads",
    "engine.rank_timeout",
    "evaluation.every_steps",
    "evaluation.every_stages",
    "evaluation.num_examples",
    "evaluation.batch_size",
    "evaluation.verify",
    "run.output_dir",
    "run.log_every",
    "run.checkpoint_every",
    "run.checkpoint_minutes",
    "run.keep_checkpoints",
    "run.keep_stage_checkpoints",
    "run.keep_stages",
    "run.keep_every",
    "run.trackers",
    "run.collapse_ratio",
}


def test_a_resumed_run_may_change_these_settings_and_no_other() -> None:
    assert {name for name in FIELD_TYPES if Change(name, 1, 2).is_free} == FREE
