"""A child process that follows its plans: it prints, reports a fault, or crashes."""

import json
import os
import sys
from pathlib import Path

for path in sys.argv[1:]:
    plan = json.loads(Path(path).read_text())
    for line in plan.get("prints", []):
        print(line)
    if "asks" in plan:
        print(json.dumps({"event": "answer", "value": os.environ.get(plan["asks"])}))
    if "fault" in plan:
        print(json.dumps({"event": "error", "message": plan["fault"]}))
    if "code" in plan:
        print("last words", file=sys.stderr)
        sys.exit(plan["code"])
