"""Slurm's four commands as submitit calls them, each job a process of this machine: a stand-in, not a Slurm."""

from pathlib import Path

COMMANDS = {
    "sbatch": """#!/bin/bash
job='export SLURM_JOB_ID=$$ SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
exec bash "$1"'
setsid bash -c "$job" bash "${@: -1}" </dev/null >/dev/null 2>&1 &
echo "Submitted batch job $!"
""",
    "srun": """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "scancel": """#!/bin/bash
echo "$1" >> "$(dirname "$0")/cancelled"
kill -9 -- "-$1"
""",
    "sacct": """#!/bin/bash
echo 'JobID|State|NodeList'
while (( $# )); do
  if [[ $1 == -j ]]; then kill -0 "$2" 2>/dev/null && state=RUNNING || state=COMPLETED; echo "$2|$state|here"; shift; fi
  shift
done
""",
}


def install(folder: Path) -> Path:
    """Writes the commands; put the folder in front of ``PATH``."""
    folder.mkdir()
    for name, text in COMMANDS.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
    return folder
