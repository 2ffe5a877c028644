"""``splatmill bench gpu`` as a script; on a machine without a GPU it says so and measures nothing."""

import json
import sys

from pipeline_core.device import configure

configure()

from pipeline_core.benchmark.gpu import main  # noqa: E402
from pipeline_core.errors import RequestError  # noqa: E402

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RequestError as error:
        print(error, file=sys.stderr)
        print(json.dumps({"bench": "gpu", "cpu_assets_per_hour": None, "gpu": None, "reason": str(error)}))
