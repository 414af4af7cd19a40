"""A locked model loads only as long as each of its files is the one that was locked."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.backends.local.lockfile import check_lock, lock_of
from rerank_plugins.backends.model_files import ModelFiles
from rerank_plugins.cli import app
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.retry import RetryingBackend
from rerank_plugins.wrappers.stores.memory import MemoryStore


@pytest.fixture
def model(tmp_path, checkpoint):
    """A folder with a model, and the spec of the model."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    return folder, f"local:{folder}"


@pytest.fixture
def lock(tmp_path, model):
    path = tmp_path / "model.lock"
    path.write_text(json.dumps(lock_of([load_backend(model[1])])))
    return str(path)


def test_unchanged_files_pass(model, lock):
    check_lock(lock, load_backend(model[1]))


def test_one_flipped_bit_of_the_weights_is_found(model, lock):
    """Also far from any sample that tells a folder's revision."""
    weights = model[0] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ConfigError, match=r"file 'model\.safetensors' is not the one in"):
        check_lock(lock, load_backend(model[1]))


@pytest.mark.parametrize("header", [b"", b"!!!!", b"\xff" * 9])
def test_weights_with_a_broken_header_are_an_error_of_ours(model, header):
    (model[0] / "model.safetensors").write_bytes(header)

    with pytest.raises(ConfigError, match=r"model\.safetensors' is broken: .*download it again"):
        lock_of([load_backend(model[1])])


def test_added_and_removed_files_are_found(model, lock):
    (model[0] / "more.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has the file 'more\.json', which is not in"):
        check_lock(lock, load_backend(model[1]))

    (model[0] / "more.json").unlink()
    (model[0] / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks the file 'tokenizer_config\.json'"):
        check_lock(lock, load_backend(model[1]))


def swapped(file):
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


def written(file):
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"!")


def written_with_its_time_set_back(file):
    before = file.stat()
    written(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped_and_back(file):
    kept = file.rename(file.with_name("kept"))
    file.write_bytes(b"")
    kept.replace(file)


def linked(file):
    file.symlink_to(file.rename(file.with_name("kept")))


@pytest.mark.parametrize(
    "change",
    [swapped, written, written_with_its_time_set_back, swapped_and_back, linked, Path.unlink],
)
def test_a_file_that_changes_after_it_was_checked_is_found(model, lock, change):
    """Before it is opened to load it, or while it is in use."""
    found = check_lock(lock, load_backend(model[1]))
    found.check()
    change(model[0] / "model.safetensors")

    with pytest.raises(ConfigError, match=r"locked file 'model\.safetensors' was changed while"):
        found.check()


def test_files_below_a_linked_folder_are_locked(model):
    (model[0] / "1_Real").mkdir()
    (model[0] / "1_Real" / "config.json").write_text("{}")
    (model[0] / "1_Link").symlink_to("1_Real", target_is_directory=True)
    files = lock_of([load_backend(model[1])])["models"][0]["files"]

    assert {"1_Real/config.json", "1_Link/config.json"} < files.keys()


@pytest.mark.parametrize("is_folder", [False, True])
def test_links_out_of_the_folder_are_refused(model, tmp_path, is_folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    target = outside if is_folder else outside / "config.json"
    (model[0] / "1_Link").symlink_to(target, target_is_directory=is_folder)

    with pytest.raises(ConfigError, match="1_Link' is a link to a place outside the model's"):
        lock_of([load_backend(model[1])])


def test_a_link_to_a_folder_around_it_is_refused(model):
    (model[0] / "1_Link").symlink_to(".", target_is_directory=True)

    with pytest.raises(ConfigError, match="1_Link' is a link to a folder that it is in"):
        lock_of([load_backend(model[1])])


def in_the_cache_of_the_hub(folder, cache):
    """Arrange a model as the hub's client does; return the folder of its snapshot."""
    snapshot = cache / "models--owner--name" / "snapshots" / ("0" * 40)
    blobs = cache / "models--owner--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_the_cache_of_the_hub_links_to_its_own_blobs(model, tmp_path):
    snapshot = in_the_cache_of_the_hub(model[0], tmp_path / "hub")
    backend = load_backend(f"local:{snapshot}")
    entry = lock_of([backend])["models"][0]
    assert lock_of([load_backend(model[1])])["models"][0]["files"] == entry["files"]

    (snapshot / "more.json").symlink_to("../../../secret")
    (tmp_path / "hub" / "secret").write_text("{}")
    with pytest.raises(ConfigError, match=r"more\.json' is a link to a place outside"):
        lock_of([backend])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"models": 1}', '{"models": [{"model": "x"}]}', '{"model": "x"}']
)
def test_an_invalid_lock_file_is_refused(model, tmp_path, content):
    (tmp_path / "wrong.lock").write_text(content)

    with pytest.raises(ConfigError, match="is not a lock; make one with: rerank-plugins lock"):
        check_lock(str(tmp_path / "wrong.lock"), load_backend(model[1]))


def test_only_models_on_this_machine_have_files_to_lock():
    with pytest.raises(ConfigError, match=r"only models on this machine .* not kind 'tei'"):
        lock_of([load_backend("tei+http://localhost:8080")])


def test_a_model_that_is_not_listed_is_refused(model, lock):
    check_lock(lock, load_backend(model[1]))

    with pytest.raises(ConfigError, match=r"'embedded' is not in the lock .* lists 'model'; lock"):
        check_lock(lock, load_backend("embedded"))


def test_a_model_in_a_chain_that_no_file_can_build_is_locked(model, lock):
    chain = RetryingBackend(CachedBackend(load_backend(model[1]), store=MemoryStore()))
    with pytest.raises(ConfigError, match="can't be written as a spec"):
        chain.to_spec()

    check_lock(lock, chain)


def test_a_backend_of_a_user_can_be_locked(tmp_path):
    """Whatever its kind and however it is built: it names its files itself."""

    class OwnBackend(EmbeddedBackend):
        def model_files(self):
            return ModelFiles("own", "1", {"weights": tmp_path / "weights"})

        def to_spec(self):
            raise ConfigError("no file builds this")

    (tmp_path / "weights").write_bytes(b"")
    assert [
        {"model": "own", "revision": "1", "files": {"weights": hashlib.sha256(b"").hexdigest()}}
    ] == lock_of([OwnBackend()])["models"]


def test_one_lock_holds_several_models(model, tmp_path, checkpoint):
    other, lock = load_backend(f"local:{checkpoint('roberta')}"), tmp_path / "all.lock"
    backends = [load_backend(model[1]), load_backend("embedded"), other]
    lock.write_text(json.dumps(lock_of([*backends, other])))

    for backend in backends:
        check_lock(str(lock), backend)
    assert 3 == len(json.loads(lock.read_text())["models"])


def test_the_models_of_a_whole_chain_are_locked(model):
    chain = load_backend(
        {
            "backend": {"kind": "tei", "base_url": "http://localhost:8080"},
            "retry": {"attempts": 2},
            "fallback": [{"kind": "local", "model": str(model[0])}, {"kind": "embedded"}],
        }
    )

    assert ["model", "embedded"] == [entry["model"] for entry in lock_of([chain])["models"]]


def test_a_lock_goes_with_a_model_to_another_folder(model, lock, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(model[0], tmp_path / "elsewhere" / "model")

    check_lock(lock, load_backend(f"local:{moved}"))


def test_the_command_writes_the_lock(model, tmp_path):
    lock = tmp_path / "made.lock"
    done = CliRunner().invoke(app, ["lock", model[1], "embedded", "--output", str(lock)])

    assert 0 == done.exit_code, done.output
    content = json.loads(lock.read_text())
    assert lock_of([load_backend(model[1]), load_backend("embedded")]) == content
    local, embedded = content["models"]
    assert {"config.json", "model.safetensors"} < local["files"].keys()
    assert {"model.onnx", "pieces.txt", "scores.npy", "words.npy"} == embedded["files"].keys()
