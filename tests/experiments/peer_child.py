"""Stands in for `experiments.comparison.peers.child`: speaks its protocol without any package, or breaks it.

Its argument says how: ``well``, ``dies``, ``babbles``, ``short``, ``stray``, ``outside``, ``silent``, ``far`` or
``fails`` (after 11 results). The seconds that it tells of are a quarter, and one more for each number that it was told
beside a loss.
"""

import json
import sys
import time

how, told = sys.argv[1], 0
for line in sys.stdin:
    message = json.loads(line)
    answer: dict = {"cpu": 0.25}
    if "make" in message:
        answer["versions"] = {"python": "3.11"}
        order = message["make"]["task"]["order"]
        names = [message["make"]["task"]["decisions"][i][0] for i in order]
    elif "tell" in message:
        told += len(message["tell"])
        answer["cpu"] += sum(v is not None for _, _, *rest in message["tell"] for v in rest)
    elif how == "dies":
        print("out of memory, says the library", file=sys.stderr)
        sys.exit(3)
    elif how == "babbles":
        print("fitting the model... done", flush=True)
        continue
    elif how == "fails" and told == 11:
        answer["error"] = "ValueError: nan in the model"
    elif how == "silent":
        time.sleep(60)
    else:
        # A function of what was told: conditions, a native value, a choice.
        row = {"optimizer": ["adam", "sgd"][told % 2], "rate": 0.5 / (1 + told)}
        if row["optimizer"] == "sgd":
            row["momentum"] = 0.9
        if how == "stray":
            row["momentum"] = 0.9
        if how == "outside":
            row["rate"] = 7.0
        answer["rows"] = [row] * (message.get("ask", 1) - (how == "short"))
        if "ask_run" in message:
            answer["units"] = 12 if how == "far" else 1 + told
    print(json.dumps(answer | {"asks_again": told < 2}), flush=True)
