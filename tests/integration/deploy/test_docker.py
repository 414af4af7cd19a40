"""The images: pinned, locked, without a model, and built as an unprivileged user wants them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rerank_plugins import load_backend
from tests.integration.deploy.recipes import DEPLOY, REQUIRED, ROOT, is_required, run, script, tool

DOCKER = DEPLOY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
refresh = script(DEPLOY / "refresh.py")
LOCKS = sorted(DOCKER.glob("requirements-*.txt"))
PINNED = re.compile(r"@sha256:(?!0{64})[0-9a-f]{64}$")


def instructions(stage=None):
    """Yield (instruction, arguments) of the Dockerfile, or of one of its stages."""
    inside = stage is None
    for line in re.sub(
        r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    ).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM" and stage is not None:
            inside = rest.endswith(f" AS {stage}")
        elif word and inside:
            yield word, re.sub(r"\s+", " ", rest)


def test_the_linter_finds_nothing():
    run("hadolint", DOCKER / "Dockerfile")


def test_every_stage_begins_with_the_pinned_image_or_another_stage():
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    assert PINNED.search(arguments["PYTHON_IMAGE"])
    stages = {rest.split(" AS ")[1] for word, rest in instructions() if word == "FROM"}
    for word, rest in instructions():
        if word == "FROM":
            assert rest.split(" AS ")[0] in stages | {"${PYTHON_IMAGE}"}


def test_it_runs_unprivileged_and_receives_signals():
    runtime = dict(instructions("runtime"))
    assert runtime["USER"] == "10001:10001"
    assert json.loads(runtime["ENTRYPOINT"]) == ["rerank-plugins"]  # no shell in between
    assert json.loads(runtime["CMD"])[0] == "serve"
    assert "HF_HUB_OFFLINE=1" in runtime["ENV"]
    for stage in ("cpu", "cuda"):
        assert {word for word, _ in instructions(stage)} <= {"COPY", "ENV"}


def test_the_build_context_excludes_secrets_and_models():
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored  # all, but for
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    ]
    for source in copied:
        assert any(Path(source).match(pattern) for pattern in allowed), source
        assert (ROOT / source).exists(), source
    assert not re.search(r"safetensors|\.bin\b|huggingface-cli|snapshot_download", DOCKERFILE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_its_hashes(lock):
    entries = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
    for entry in entries:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry


@pytest.mark.parametrize("name", refresh.LOCKS)
def test_locks_hold_all_requirements_of_the_package(name):
    """A new dependency, or a higher floor, needs `refresh.py packages`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in refresh.LOCKS[name]:
        wanted += project["optional-dependencies"][extra]
    text = (DOCKER / name).read_text(encoding="utf-8")
    locked = {
        canonicalize_name(match[1]): match[2]
        for match in re.finditer(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", text, re.MULTILINE)
    }
    for requirement in map(Requirement, wanted):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_digests_are_renewed_by_tag(tmp_path, monkeypatch, capsys):
    """Docker is not here, so a program of its name answers as it does."""
    old, new = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 9\n'
        f'echo "$4" >>{tmp_path}/images\necho {new}\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    files = tmp_path / "deploy"
    (files / "compose").mkdir(parents=True)
    (files / "Dockerfile").write_text(f"ARG PYTHON_IMAGE=python:3.13-slim@{old}\n")
    (files / "compose" / "compose.yaml").write_text(
        f"a: redis:8@{old}\nb: python:3.13-slim@{old}\n"
    )
    refresh.refresh_images(files)

    assert (files / "Dockerfile").read_text() == f"ARG PYTHON_IMAGE=python:3.13-slim@{new}\n"
    assert old not in (files / "compose" / "compose.yaml").read_text()
    assert sorted((tmp_path / "images").read_text().split()) == ["python:3.13-slim", "redis:8"]
    assert "renewed: Dockerfile" in capsys.readouterr().out


# The image, as far as it can be built without docker: its RUN lines in a fresh environment, then
# its server as user 10001 without capabilities, on a read-only file system, without a network.

SERVE = r"""
set -eu
mount --make-rprivate /
if [ -n "$HIDDEN" ]; then # the base interpreter lies where only root may look
    mount --bind "$BASE" /mnt
    mount -t tmpfs -o mode=755 none "$HIDDEN"
    mkdir -p "$BASE"
    mount --move /mnt "$BASE"
fi
mount -t tmpfs -o mode=1777 none "$WORK/tmp"
mount -o remount,bind,ro /
ip link set lo up
drop="setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs"
drop="$drop --bounding-set=-all --inh-caps=-all"
export TMPDIR="$WORK/tmp" HOME="$WORK/tmp" PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
$drop touch "$WORK/written" 2>/dev/null && { echo "the file system can be written"; exit 3; }
cd "$WORK/models"
$drop sha256sum --check --strict --quiet "$WORK/SHA256SUMS" # as the init container does
$drop "$WORK/rerank/bin/rerank-plugins" serve "$WORK/rerank.toml" &
server=$!
status=0
$drop "$WORK/rerank/bin/python" "$WORK/client.py" || status=$?
$drop "$WORK/rerank/bin/rerank-plugins" canary "$WORK/labelled.jsonl" --conformance \
    --backend=infinity+http://127.0.0.1:8787 || status=$?
kill -TERM $server
wait $server || { echo "the server ended with $?"; exit 4; }
exit $status
"""

CLIENT = r"""
import json, os, time, urllib.error, urllib.request
base = "http://127.0.0.1:8787"
assert os.getuid() == 10001
for _ in range(600):
    try:
        urllib.request.urlopen(base + "/readyz", timeout=5)
        break
    except OSError:
        time.sleep(0.1)
body = json.dumps({"query": "what is a panda?", "documents": ["A city.", "A bear of China."]})
kind = {"Content-Type": "application/json"}
request = urllib.request.Request(base + "/v1/rerank", body.encode(), kind)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


@pytest.fixture(scope="module")
def built():
    """A folder with the environment that the RUN lines of the CPU image make."""
    if not is_required():
        pytest.skip(f"it installs packages from their registry; set {REQUIRED}=1")
    folder = Path(tempfile.mkdtemp(prefix="rerank-image-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        (folder / "src").mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
            shutil.copy(ROOT / name, folder / "src")
        shutil.copytree(
            ROOT / "rerank_plugins",
            folder / "src" / "rerank_plugins",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name in ("build", "cpu"):
            shutil.copy(DOCKER / f"requirements-{name}.txt", folder / "src")
        subprocess.run([sys.executable, "-m", "venv", folder / "system"], check=True)
        environment = {**os.environ, "PATH": f"{folder}/system/bin:{os.environ['PATH']}"}
        for stage in ("wheel", "cpu-environment"):
            for word, command in instructions(stage):
                if word != "RUN":
                    continue
                here = (
                    command.replace("/opt/rerank", f"{folder}/rerank")
                    .replace("/dist", f"{folder}/dist")
                    .replace("/tmp/requirements.txt", "requirements-cpu.txt")
                )
                done = subprocess.run(
                    ["sh", "-ec", here],
                    cwd=folder / "src",
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(600)
def test_the_image_serves_a_model_without_rights_files_or_network(built, checkpoint):
    unshare = tool("unshare")
    tool("ip")
    tool("setpriv")
    if subprocess.run([unshare, "-m", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    (built / "tmp").mkdir(mode=0o755)
    (built / "client.py").write_text(CLIENT)
    model = built / "models" / "tiny"
    shutil.copytree(checkpoint("bert"), model)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  tiny/{file.name}\n"
        for file in model.iterdir()
    ]
    (built / "SHA256SUMS").write_text("".join(sums))
    config = (DEPLOY / "kubernetes" / "base" / "rerank.toml").read_text(encoding="utf-8")
    config, _, _ = config.replace("/models/bge-reranker-base", str(model)).partition("[server]")
    (built / "rerank.toml").write_text(config)
    subprocess.run(["chmod", "-R", "a+rX", model], check=True)
    shutil.copy(DEPLOY / "kubernetes" / "base" / "labelled.jsonl", built)
    base = Path(sys.base_prefix).resolve()
    hidden = next((p for p in reversed(base.parents) if not p.stat().st_mode & 0o001), None)
    environment = {
        **os.environ,
        "WORK": str(built),
        "BASE": str(base),
        "HIDDEN": str(hidden or ""),
    }
    done = subprocess.run(
        [unshare, "--mount", "--net", "--pid", "--fork", "sh", "-c", SERVE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd="/",
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    ranking, measured = map(json.loads, done.stdout.strip().splitlines()[-2:])
    results = ranking["results"]
    assert measured["queries"] == 20
    texts = ["A city.", "A bear of China."]
    here = load_backend(f"local:{model}?engine=onnx").score("what is a panda?", texts)
    there = {item["index"]: item["relevance_score"] for item in results}
    assert [there[0], there[1]] == pytest.approx(here, abs=1e-5)
    installed = subprocess.run(
        [built / "rerank" / "bin" / "pip", "list"], capture_output=True, text=True, check=True
    )
    assert not re.search(r"^torch ", installed.stdout, re.MULTILINE)
