"""The manifests, rendered once."""

import pytest

pytest.register_assert_rewrite("recipes")

from recipes import DEPLOY, run  # noqa: E402  # after the line above


@pytest.fixture(scope="session")
def overlays(tmp_path_factory):
    """The rendered manifests: a file per overlay."""
    folder = tmp_path_factory.mktemp("rendered")
    rendered = {}
    for overlay in sorted((DEPLOY / "kubernetes" / "overlays").iterdir()):
        rendered[overlay.name] = folder / f"{overlay.name}.yaml"
        rendered[overlay.name].write_text(run("kubectl", "kustomize", overlay), encoding="utf-8")
    return rendered
