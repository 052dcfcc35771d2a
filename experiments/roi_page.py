"""What the written searches return: docs/roi.md with its figures, from experiments/results/roi.csv.

python -m experiments.roi_page             writes them
python -m experiments.roi_page --check     fails if the page differs from the results
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autorank.report.style import png_bytes
from autorank.studies.roi_figures import figure_of
from autorank.studies.roi_page import section
from autorank.studies.roi_written import Written, read_written

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, FIGURES = ROOT / "experiments/results", ROOT / "docs/roi.md", ROOT / "docs/roi"
BEGIN, END = "<!-- roi: begin -->", "<!-- roi: end -->"


def filled(text: str, written: Written) -> str:
    """The page with the results between its marks."""
    lines = []
    for data, made_by in written.made_by.items():
        lines += section(written.rows, data, made_by["plan"]["order"], made_by)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{chr(10).join(lines).strip()}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the page; 1 if it differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    written = read_written(RESULTS)
    text = filled(PAGE.read_text(), written)
    if check:
        same = text == PAGE.read_text()
        print("the page is that of the results" if same else "write python -m experiments.roi_page")
        return int(not same)
    PAGE.write_text(text)
    FIGURES.mkdir(exist_ok=True)
    for data in written.made_by:
        drawn = figure_of(written.rows, written.days, data)
        (FIGURES / f"{data}.png").write_bytes(png_bytes(drawn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
