"""A Hydra app whose jobs behave as they are told: for tests of faults and launchers."""

import math
import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    """Planted quality, after doing what ``do`` says where ``when`` holds."""
    if config.log:
        with open(config.log, "a") as stream:
            stream.write(f"{config.x} {config.kind} {os.getpid()}\n")
    time.sleep(config.seconds + (config.slow if config.x in config.slowed else 0))
    if HydraConfig.get().job.num in config.doomed:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.x in config.when:
        flag = Path(config.once) if config.once else None
        if flag is None or not flag.exists():
            if flag is not None:
                flag.touch()
            if config.do == "raise":
                raise RuntimeError("out of memory")
            if config.do == "no_number":
                return float("nan")
            if config.do == "rubbish":
                return {"loss": 1.0}
            if config.do == "unpicklable":
                return lambda: 1
            if config.do == "hang":
                time.sleep(600)
            if config.do == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
    if config.rate > 0.5 and config.x > 10:
        raise MemoryError("rate and x together")
    rate = 20 * math.log10(config.rate / 0.02) ** 2
    return (config.x - 12) ** 2 + (config.kind != "b") + rate, 1.0 + config.x


if __name__ == "__main__":
    main()
