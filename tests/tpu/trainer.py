"""Stands in for train.py where the launcher is tested: `trainer.py RUN_DIR STEPS`, a checkpoint a step.

Worker 0 writes; all of them leave with 75 on SIGTERM. What RUN_DIR/order says comes first: "wait N" holds
at step N until the file says something else, "exit N CODE" ends at step N.
"""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    run_dir, steps = Path(sys.argv[1]), int(sys.argv[2])
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    saved = run_dir / "checkpoints"
    saved.mkdir(parents=True, exist_ok=True)
    main_worker = os.environ["JAX_PROCESS_ID"] == "0"
    step = max((int(path.name) for path in saved.iterdir()), default=0)
    print(f"{os.environ['LECTERN_PROCESSES']} processes, {os.environ['LECTERN_DEVICES']} devices")
    print(f"from step {step}, shell {os.environ.get('TOKEN', 'without')} token")
    waits = -1
    while step < steps and not told:
        order = (run_dir / "order").read_text().split() if (run_dir / "order").exists() else [""]
        if order[0] == "exit" and step >= int(order[1]):
            return int(order[2])
        if order[0] == "wait" and step >= int(order[1]):
            if step > waits:
                print(f"waits at step {step}")
                waits = step
            time.sleep(0.05)
            continue
        step += 1
        if main_worker:
            (saved / str(step)).mkdir(exist_ok=True)
            # What Orbax leaves in a finished step.
            (saved / str(step) / "_CHECKPOINT_METADATA").write_text("{}")
        print(f"step {step}")
        time.sleep(0.02)
    print(f"end at step {step}")
    return 75 if told and step < steps else 0


if __name__ == "__main__":
    sys.exit(main())
