"""The files for the repository's host: valid by its schemas, and in step with the package."""

import tomllib

import pytest

check = pytest.importorskip("check_jsonschema", reason="needs check-jsonschema")
yaml = pytest.importorskip("yaml", reason="needs PyYAML")

from click.testing import CliRunner  # noqa: E402  # after the lines above

from tests.support.places import ROOT  # noqa: E402

HOST = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCHEMAS = {
    "CITATION.cff": "citation-file-format",
    "dependabot.yml": "dependabot",
    "ISSUE_TEMPLATE/bug.yml": "github-issue-forms",
    "ISSUE_TEMPLATE/config.yml": "github-issue-config",
    "ISSUE_TEMPLATE/idea.yml": "github-issue-forms",
    "workflows/ci.yml": "github-workflows",
    "workflows/docs.yml": "github-workflows",
    "workflows/release.yml": "github-workflows",
}

pytestmark = pytest.mark.skipif(not HOST.exists(), reason="this is no checkout of git's")


def test_each_file_has_a_schema():
    files = [*HOST.rglob("*.yml"), *HOST.rglob("*.cff")]

    assert sorted(SCHEMAS) == sorted(str(file.relative_to(HOST)) for file in files)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_fits_its_schema(name):
    arguments = ["--builtin-schema", f"vendor.{SCHEMAS[name]}", "--force-filetype", "yaml"]
    done = CliRunner().invoke(check.main, [*arguments, str(HOST / name)])

    assert 0 == done.exit_code, done.output


def test_a_wrong_workflow_does_not_fit(tmp_path):
    wrong = tmp_path / "ci.yml"
    wrong.write_text("on: push\njobs: {a: {runs-on: x, stepz: []}}\n", encoding="utf-8")
    arguments = ["--builtin-schema", "vendor.github-workflows", str(wrong)]

    assert 0 != CliRunner().invoke(check.main, arguments).exit_code


@pytest.mark.parametrize(("workflow", "job"), [("ci", "tests"), ("release", "try")])
def test_the_pythons_and_systems_that_are_promised_are_tested(workflow, job):
    text = (HOST / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"][job]["strategy"]["matrix"]
    pythons = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if " :: 3." in name]

    assert pythons == matrix["python"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert ["ubuntu-latest", "macos-latest", "windows-latest"] == matrix["os"]


def test_one_address_stands_everywhere():
    repository = PROJECT["urls"]["Repository"]
    citation = yaml.safe_load((HOST / "CITATION.cff").read_text(encoding="utf-8"))
    config = (HOST / "ISSUE_TEMPLATE" / "config.yml").read_text(encoding="utf-8")

    assert repository == citation["repository-code"]
    assert f"{repository}/" in config
    assert all(PROJECT["urls"][name].startswith(repository) for name in ("Issues", "Changelog"))


def test_only_publishing_may_ask_for_an_identity():
    text = (HOST / "workflows" / "release.yml").read_text(encoding="utf-8")
    release = yaml.safe_load(text)

    assert {"contents": "read"} == release["permissions"]
    asks = [
        name for name, job in release["jobs"].items() if "id-token" in job.get("permissions", {})
    ]
    assert ["publish"] == asks
    assert "password" not in text
