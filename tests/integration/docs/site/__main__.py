"""The site's commands.

python -m tests.integration.docs.site build OUT     build both languages into a folder
python -m tests.integration.docs.site chinese       list pages whose Chinese is older or missing
python -m tests.integration.docs.site record NAME…  note that NAME.zh-CN.md tells what NAME.md says
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.docs.site.build import SiteError, build
from tests.integration.docs.site.pages import outdated, pages, record, untranslated
from tests.support.places import ROOT


def main(arguments: list[str]) -> int:
    """Run a command; return the exit status."""
    match arguments:
        case ["build", target]:
            try:
                build(Path(target))
            except SiteError as error:
                sys.stderr.write(f"{error}\n")
                return 1
        case ["chinese"]:
            for title, files in (("older than its English", outdated()), ("none", untranslated())):
                for file in files:
                    sys.stdout.write(f"{title}: {file.relative_to(ROOT)}\n")
            return bool(outdated())
        case ["record", *names] if names:
            for page in pages():
                if page.name in names:
                    record(page)
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
