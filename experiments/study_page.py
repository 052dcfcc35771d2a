"""What the written studies say: docs/studies.md with its figures, and the three findings on the README's front.

python -m experiments.study_page             writes them from experiments/results/studies and configs/study
python -m experiments.study_page --check     fails if they differ from these, or a title says what the results do not
"""

import argparse
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from autorank.app.programs import of_checkout
from autorank.report.style import png_bytes
from autorank.studies.figures import figure_of
from autorank.studies.findings import ALL, short
from autorank.studies.subjects import study_of
from autorank.studies.written import Written, read_written

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "studies"
STUDIES = ROOT / "configs" / "study"
PAGE, FIGURES, README = ROOT / "docs" / "studies.md", ROOT / "docs" / "studies", ROOT / "README.md"
BEGIN, END = "<!-- studies: begin -->", "<!-- studies: end -->"
FRONT = ("search-efficiency", "predictor-loss", "predictor-input")  # of the README
FEW = 4  # tables up to which each has a column


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes or checks the page, its figures and the README's front."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    of_checkout("experiments.comparison.peers.in_study").register_rules()
    try:
        studies = [read(path) for path in sorted(RESULTS.glob("*.csv"))]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    wanted = {PAGE: filled(PAGE, page(studies)), README: filled(README, front(studies))}
    if check:
        differ = [path.name for path, text in wanted.items() if path.read_text() != text]
        differ += [w.name for w in studies if mark_of(picture(w.name)) != marked(w)]
        if differ:
            raise SystemExit(
                f"{', '.join(differ)}: not made of the results: python -m experiments.study_page"
            )
        return
    FIGURES.mkdir(exist_ok=True)
    for path, text in wanted.items():
        path.write_text(text)
    for written in studies:
        if mark_of(picture(written.name)) != marked(written):
            made = png_bytes(figure_of(written, title(written)))
            picture(written.name).write_bytes(with_mark(made, marked(written)))


def read(path: Path) -> Written:
    """The results in a CSV file, with the study of the same name.

    Raises:
        ValueError: as `read_written`.
    """
    content = yaml.safe_load((STUDIES / f"{path.stem}.yaml").read_text())
    return read_written(path, study_of(content))


def title(written: Written) -> str:
    """The finding; the question where the study's file has none."""
    return written.study.title or written.study.question


def page(studies: list[Written]) -> str:
    """What stands between the page's marks."""
    seconds = sum(w.made_by["cpu_seconds"] for w in studies)
    parts = [
        f"`python -m experiments.study study=all` runs these {len(studies)} studies. Together they took "
        f"{_minutes(seconds)} of CPU time, {_minutes(seconds / 2)} on each of two cores.\n",
        "| study | question | what we found |",
        "|---|---|---|",
    ]
    parts += [f"| [{w.name}](#{w.name}) | {w.study.question} | {title(w)} |" for w in studies]
    return "\n".join(parts + [section(w) for w in studies])


def section(written: Written) -> str:
    """One study: question, paper and finding side by side, figure, tables, command."""
    made_by, study = written.made_by, written.study
    found = "<br>".join(told(written))
    found = f"Difference in {written.words}:<br>{found}" if found else made_by["sentence"]
    lines = [
        f"\n## {written.name}\n",
        f"{study.question}\n",
        "| the paper says | we found |",
        "|---|---|",
        f"| {sentence_case(study.paper)} | {found} |\n",
        *([f"{study.note}\n"] if study.note else []),
        f"![{title(written)}](studies/{written.name}.png)\n",
        *arms_table(written),
        "",
    ]
    if len(written.tables) > FEW and written.contrasts:
        lines += [*tables_table(written), ""]
    revision = f"revision {made_by['git_revision']}, " if made_by["git_revision"] else ""
    lines += [
        f"`{made_by['command']}`: {made_by['splits']} {study.SPLITS} of each table, seed {made_by['seed']}, "
        f"{_minutes(made_by['cpu_seconds'])} of CPU time; {revision}jax {made_by['versions']['jax']}.",
    ]
    return "\n".join(lines)


def told(written: Written) -> list[str]:
    """A sentence for each contrast: in the mean over the tables, and where a table by itself says something else."""
    lines = []
    for contrast in written.contrasts:
        mean = written.at(contrast).difference
        says = mean.text if mean.sign else f"no difference shown ({mean.text})"
        others: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for table in written.tables:
            sign = written.at(contrast, table).difference.sign
            if sign != mean.sign:
                others[sign].append(table)
        if len(written.tables) > 1:
            exceptions = [
                f"{kind} on {_some(others[sign])}"
                for sign, kind in ((1, "higher"), (-1, "lower"), (0, "not shown"))
                if others[sign]
            ]
            says += f"; {'; '.join(exceptions)}" if exceptions else ""
        lines.append(f"{sentence_case(contrast)}: {says}.")
    return lines


def _some(tables: list[str]) -> str:
    return ", ".join(tables) if len(tables) <= FEW else f"{len(tables)} tables"


def arms_table(written: Written) -> list[str]:
    """A row for each arm."""
    study, lead = written.study, written.lead
    shown = written.tables if 1 < len(written.tables) <= FEW else []
    others = [
        m for m in ("regret_at_1", "top_10_recall") if m in written.made_by["study"]["measures"]
    ]
    others = others or written.made_by["study"]["measures"][1:3]
    head = ["arm", *(f"{lead}, {table}" for table in shown), f"{lead}, mean"]
    head += [f"minus {study.reference} [95 %]", *others]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for arm in written.arms:
        cells = [arm, *(short(written.at(arm, table).mean) for table in shown)]
        cells.append(short(written.at(arm).mean))
        reference = arm == study.reference
        cells.append("reference" if reference else written.at(arm).difference.text)
        cells += [short(written.at(arm, ALL, m).mean) for m in others]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def tables_table(written: Written) -> list[str]:
    """A row for each table, a column for each contrast."""
    lines = [f"| {written.lead} on | {' | '.join(written.contrasts)} |"]
    lines.append("|" + "---|" * (len(written.contrasts) + 1))
    for table in written.tables:
        cells = [written.at(words, table).difference.text for words in written.contrasts]
        lines.append(f"| {table} | {' | '.join(cells)} |")
    return lines


def front(studies: list[Written]) -> str:
    """The findings on the README's front, a line for each."""
    by_name = {w.name: w for w in studies}
    lines = []
    for name in FRONT:
        written = by_name[name]
        contrast, _, table = (first := next(iter(written.study.shows))).partition(" @ ")
        on = f" on {table}" if table else ""
        found = f"{contrast}{on}: {written.words} {written.shown(first).text}"
        lines.append(f"- {title(written)} ({found}; [{name}](docs/studies.md#{name})).")
    return "\n".join(lines)


def filled(path: Path, text: str) -> str:
    """A document with a text between its marks.

    Raises:
        SystemExit: it has no marks.
    """
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{path.name} has no place for the studies: add {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def sentence_case(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


# --- a figure carries a mark of what it was drawn from, since its bytes depend on versions ---------------------------


def picture(name: str) -> Path:
    """Where a study's figure lies."""
    return FIGURES / f"{name}.png"


def marked(written: Written) -> str:
    """Changes with everything that the figure shows."""
    shown = [
        title(written),
        written.study.axis,
        written.study.reference,
        [[*key, row.mean, *row.difference] for key, row in written.rows.items()],
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def with_mark(png: bytes, mark: str) -> bytes:
    """The picture with a text chunk (PNG specification, 11.3.4.3) before its end."""
    content = b"tEXt" + b"Source\0" + mark.encode("latin-1")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-12] + chunk + png[-12:]


def mark_of(path: Path) -> str:
    """The mark in a picture; empty if there is none."""
    if not path.exists():
        return ""
    _, found, rest = path.read_bytes().rpartition(b"tEXtSource\0")
    return rest[:64].decode("latin-1") if found else ""


if __name__ == "__main__":
    main()
