"""`tacit export --push` against a stand-in for the Hub: a real HTTP server that speaks the part of its API needed."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from pipeline.cli.main import main
from tests.tiny import ROOT, write_recipe

TOKEN = "hf_secretofthetest"


class Hub(BaseHTTPRequestHandler):
    """Takes one repository; keeps what was sent in ``server.seen``."""

    def do_GET(self) -> None:  # noqa: D102
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": [], "tags": [], "private": True})

    def do_POST(self) -> None:  # noqa: D102
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = self.server.seen  # type: ignore[attr-defined]
        seen["authorization"] = self.headers.get("Authorization")
        if self.path.endswith("/repos/create"):
            seen["create"] = json.loads(body)
            self._answer({"url": f"http://{self.headers['Host']}/me/mine"})
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            seen["files"] = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            self._answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/{'1' * 40}",
                    "commitOid": "1" * 40,
                    "hookOutput": "",
                }
            )
        else:
            self._answer({"valid": True})

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = {}  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pushed_run")
    assert main(["train", "--config", str(write_recipe(folder, schedule__max_steps=2))]) == 0
    return folder / "run"


def export(run_dir: Path, output: Path, endpoint: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "export", str(run_dir), "--output", str(output), *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_whole_folder_is_pushed_and_the_token_is_written_nowhere(
    run_dir: Path, tmp_path: Path, hub: ThreadingHTTPServer
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    output = tmp_path / "mine"
    done = export(run_dir, output, endpoint, "--push", "me/mine", "--private", "--license", "mit", "--json")
    assert done.returncode == 0, done.stderr
    seen = hub.seen  # type: ignore[attr-defined]
    assert json.loads(done.stdout)["address"] == f"{endpoint}/me/mine"
    assert seen["create"]["visibility"] == "private" and seen["create"]["name"] == "mine"
    assert seen["authorization"] == f"Bearer {TOKEN}"
    assert {name: (output / name).read_bytes() for name in seen["files"]} == seen["files"]
    assert {"README.md", "config.json", "model.safetensors", "tacit.json", "tokenizer.json"} <= set(seen["files"])
    assert b"license: mit" in seen["files"]["README.md"]
    written = [path.read_bytes() for path in output.iterdir()] + [done.stdout.encode(), done.stderr.encode()]
    assert not any(TOKEN.encode() in content for content in written)


def test_a_hub_that_cannot_be_reached_is_one_line_and_the_folder_stays(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # read on import otherwise
    assert main(["export", str(run_dir), "--output", str(tmp_path / "mine"), "--push", "me/mine"]) == 2
    said = capsys.readouterr().err
    assert said.count("tacit: error: --push (me/mine): the Hub did not take it") == 1 and "Traceback" not in said
    assert (tmp_path / "mine" / "model.safetensors").is_file()


def test_private_without_push_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_dir), "--output", str(tmp_path / "x"), "--private"]) == 2
    assert "--private is for --push" in capsys.readouterr().err
