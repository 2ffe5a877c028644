"""Run with the Python of an OpenUSD that has it: ``usdchecker --arkit`` of files, as lines ``FOUND {...}``."""

import json
import sys

from pxr import UsdUtils

for name in sys.argv[1:]:
    checker = UsdUtils.ComplianceChecker(arkit=name.endswith(".usdz"))
    checker.CheckCompliance(name)
    found = [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()]
    print("FOUND " + json.dumps({"file": name, "found": found}))
