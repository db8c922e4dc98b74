# SPDX-License-Identifier: GPL-2.0
"""Records go to JSON and come back."""

import json

records = [{"id": i, "name": f"record {i}", "tags": [str(i % 7), "all"],
            "size": i / 3, "parent": {"id": i // 2, "ok": i % 2 == 0}}
           for i in range(12_000)]
for _ in range(5):
    records = json.loads(json.dumps(records))
assert len(records) == 12_000 and records[7]["parent"] == {"id": 3, "ok": False}
