"""The images and the compose file hold together, and with the files that they copy and name."""

import json
import re
import shlex
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from pipeline.cli.main import COMMANDS
from pipeline.doctor.software import read_pins
from tests.tiny import ROOT

DOCKER = ROOT / "docker"
FILES = {name: (DOCKER / name).read_text() for name in ("Dockerfile", "Dockerfile.cpu")}
IMAGES = sorted(FILES)
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
HOME = "/home/tacit"
WORKDIR = f"{HOME}/tacit"


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions in order, lines joined and comments dropped."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def last_stage(text: str) -> list[tuple[str, str]]:
    """Return the instructions of the stage that becomes the image."""
    steps = instructions(text)
    begin = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[begin:]


def of_word(steps: list[tuple[str, str]], wanted: str) -> list[str]:
    return [rest for word, rest in steps if word == wanted]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_tacit_without_privileges(name: str) -> None:
    steps = last_stage(FILES[name])
    users = of_word(steps, "USER")
    assert users == ["${USER_ID}"]  # a number: Kubernetes cannot tell that a name is not root
    assert "USER_ID=1000" in of_word(steps, "ARG")
    words = [word for word, _ in steps]
    assert words.index("USER") < words.index("COPY")  # nothing of ours belongs to root
    assert json.loads(of_word(steps, "ENTRYPOINT")[-1]) == ["tacit"]
    assert of_word(steps, "WORKDIR")[-1] == WORKDIR
    assert all("--chown=${USER_ID}" in rest for rest in of_word(steps, "COPY"))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_copies_requirements_before_code(name: str) -> None:
    copies = of_word(instructions(FILES[name]), "COPY")
    whole = next(i for i, rest in enumerate(copies) if rest.split()[-2:] == [".", "."])
    files = [word for rest in copies[:whole] for word in rest.split() if word.endswith(".txt")]
    assert {"requirements.txt", "requirements-dev.txt"} <= set(files)
    assert [file for file in files if not (ROOT / file).is_file()] == []
    installed = [rest for rest in of_word(instructions(FILES[name]), "RUN") if "-r requirements.txt" in rest]
    assert len(installed) == 1


@pytest.mark.parametrize("name", IMAGES)
def test_the_base_is_fixed_by_a_version(name: str) -> None:
    steps = instructions(FILES[name])
    first_from = [word for word, _ in steps].index("FROM")
    bases = of_word(steps[:first_from], "ARG")
    assert [rest.split()[0] for rest in of_word(steps, "FROM")] == [f"${{{base.partition('=')[0]}}}" for base in bases]
    assert all(re.search(r":\d[\w.-]*\.\d", base) for base in bases)


def system_packages(text: str) -> set[str]:
    """Return what apt installs in the image."""
    (line,) = re.findall(r"apt-get install ([^&]*)", " ".join(of_word(last_stage(text), "RUN")))
    return {word for word in line.split() if not word.startswith("-")}


def environment(text: str) -> dict[str, str]:
    """Return what the image sets."""
    return dict(pair.split("=", 1) for pair in " ".join(of_word(last_stage(text), "ENV")).split())


def test_both_images_install_the_same_system_packages_and_keep_the_same_caches() -> None:
    gpu, cpu = FILES["Dockerfile"], FILES["Dockerfile.cpu"]
    assert system_packages(gpu) == system_packages(cpu) >= {"g++", "python3-dev"}
    assert environment(cpu) == {**environment(gpu), "DS_ACCELERATOR": "cpu"}
    assert of_word(last_stage(gpu), "VOLUME") == of_word(last_stage(cpu), "VOLUME") == [f'["{HOME}/.cache"]']
    assert all(environment(gpu)[name].startswith(f"{HOME}/.cache/") for name in ("HF_HOME", "TRITON_CACHE_DIR"))


def test_the_cuda_images_base_is_the_cuda_that_torch_is_built_with() -> None:
    """Torch 2.13.0's wheel depends on cuda-toolkit 13.0.3; another torch wants another base."""
    (torch_pin,) = re.findall(r"^torch==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    versions = set(re.findall(r"nvidia/cuda:([\d.]+)-", FILES["Dockerfile"]))
    assert (torch_pin, versions) == ("2.13.0", {"13.0.3"})


def pinned_names(path: str) -> set[str]:
    """Return the packages of a requirements file, each of which has one exact version."""
    pins = read_pins((ROOT / path).read_text())
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    return {pin.name for pin in pins}


def test_flash_attn_is_pinned_outside_the_requirements_and_can_be_left_out() -> None:
    everywhere = pinned_names("requirements.txt") | pinned_names("requirements-dev.txt")
    assert "flash-attn" in pinned_names("requirements-gpu.txt")
    assert pinned_names("requirements-gpu.txt") & everywhere == set()
    (step,) = (rest for rest in of_word(instructions(FILES["Dockerfile"]), "RUN") if "requirements-gpu" in rest)
    assert "--no-build-isolation" in step and '"${FLASH_ATTN}" = yes' in step
    assert "requirements-gpu" not in FILES["Dockerfile.cpu"]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_no_version_but_the_pins(name: str) -> None:
    """What a Dockerfile pins itself are tools of the build, which no requirements file names."""
    pinned = set(re.findall(r"([\w-]+)==[\w.]+", " ".join(of_word(instructions(FILES[name]), "RUN"))))
    required = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    assert pinned <= {"ninja", "wheel"}
    assert [tool for tool in pinned if re.search(rf"^{tool}==", required, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "path", [".git", "data", "runs", "models", "my", ".venv", "pipeline/__pycache__", "tacit.egg-info"]
)
def test_what_is_large_or_private_stays_out_of_the_image(path: str) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert any(fnmatch(path, pattern.removeprefix("**/")) or fnmatch(path, pattern) for pattern in patterns)


@pytest.mark.parametrize("path", ["pipeline", "recipes", "ds_configs", "launchers", "tests", "requirements.txt"])
def test_what_an_image_needs_is_not_kept_out(path: str) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert not any(fnmatch(path, pattern.removeprefix("**/")) for pattern in patterns)


# The compose file


def test_the_compose_file_has_both_services_and_names_what_is_there() -> None:
    assert COMPOSE["services"].keys() == {"gpu", "cpu"}
    for name, service in COMPOSE["services"].items():
        context = (DOCKER / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
        assert service["image"] == f"tacit:{name}"
        assert service["command"][0] in COMMANDS
        (default,) = re.findall(r"^\$\{RECIPE:-(.*)\}$", service["command"][2])
        assert (ROOT / default).is_file()


def test_the_gpu_service_asks_for_every_gpu_and_for_room_to_talk() -> None:
    gpu = COMPOSE["services"]["gpu"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert gpu["shm_size"] == "16gb"
    assert gpu["ulimits"] == {"memlock": -1, "stack": 64 * 2**20, "nofile": 65536}
    assert "deploy" not in COMPOSE["services"]["cpu"]


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_runs_data_models_recipes_and_caches_outlive_a_container(name: str) -> None:
    volumes = [volume.split(":") for volume in COMPOSE["services"][name]["volumes"]]
    targets = {target: source for source, target, *_ in volumes}
    folders = {f"{WORKDIR}/{folder}": f"../{folder}" for folder in ("runs", "data", "models", "recipes")}
    assert targets == {**folders, f"{HOME}/.cache": "cache"}
    assert "cache" in COMPOSE["volumes"]
    made = " ".join(of_word(last_stage(FILES["Dockerfile" if name == "gpu" else "Dockerfile.cpu"]), "RUN"))
    assert all(folder in shlex.split(made) for folder in ("runs", "data", "models"))  # else they would be root's


def test_no_secret_stands_in_a_file() -> None:
    """HF_TOKEN has no value in the compose file, so it comes from the shell that starts the container."""

    def values(node: Any) -> list[str]:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return [node] if isinstance(node, str) else [text for child in children for text in values(child)]

    for service in COMPOSE["services"].values():
        assert "HF_TOKEN" in service["environment"]
    texts = [*FILES.values(), (DOCKER / "compose.yaml").read_text()]
    assert not any(re.search(r"(?i)(token|password|secret|api_?key)\s*[=:]\s*\S", text) for text in texts)
    assert not any(re.search(r"\bhf_[A-Za-z0-9]{8,}", text) for text in [*values(COMPOSE), *texts])
