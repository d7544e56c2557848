"""Run by another Python: builds a project and prints the release's digest and its own version."""

import asyncio
import os
import platform
import sys
from pathlib import Path

os.umask(int(sys.argv[3], 8))
sys.path[:0] = sys.argv[4:]

from penstock.domain.errors import BuildFailed  # noqa: E402 - the path comes first
from penstock.drivers.builders.local import LocalBuilder  # noqa: E402 - see above
from penstock.kit.archives import pack  # noqa: E402 - see above
from penstock.rules.releases import release_digest  # noqa: E402 - see above

project, home = Path(sys.argv[1]), Path(sys.argv[2])
try:
    (built,) = asyncio.run(LocalBuilder(home).build(pack(project), ci=True))
except BuildFailed as error:
    sys.exit(f"{error}\n{error.output}")
print(platform.python_version(), release_digest(built.manifest))
