"""The manifests, rendered once, and a labelled set of real questions."""

import json

import pytest

pytest.register_assert_rewrite("tests.integration.deploy.recipes")

from tests.integration.deploy.recipes import DEPLOY, ROOT, run  # noqa: E402  # after the line above


@pytest.fixture(scope="session")
def overlays(tmp_path_factory):
    """The rendered manifests: a file per overlay."""
    folder = tmp_path_factory.mktemp("rendered")
    rendered = {}
    for overlay in sorted((DEPLOY / "kubernetes" / "overlays").iterdir()):
        rendered[overlay.name] = folder / f"{overlay.name}.yaml"
        rendered[overlay.name].write_text(run("kubectl", "kustomize", overlay), encoding="utf-8")
    return rendered


@pytest.fixture
def labelled(tmp_path):
    """Real questions with the abstract that answers each, and seven that don't."""
    text = (ROOT / "examples" / "data" / "pubmedqa.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()[:30]]
    file = tmp_path / "labelled.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "query": row["question"],
                    "documents": [
                        rows[(at + i) % 30]["abstract"] for i in (3, 1, 0, 2, 4, 5, 6, 7)
                    ],
                    "relevant": [2],
                }
            )
            + "\n"
            for at, row in enumerate(rows)
        ),
        encoding="utf-8",
    )
    return file
