"""Run every benchmark and write what came of it into `benchmarks/README.md`.

    python benchmarks/run_all.py [--only NAME ...] [--again] [--timeout SECONDS]

Each script runs in a process of its own. What it printed goes to `results.json` beside
this script, with the date, the versions and the machine. A script whose result for this
version of sktl, of torch, and this machine is there already is not run again, so that a
run that was stopped continues where it was; `--again` runs it anyway. The table has a
row for each script, made of the claims that it printed (`claim (...): holds` or
`FAILS`); all that it printed goes into its section of the page, in place of the first
block of text there.

Hours on two cores, and nothing else should run on the machine. Exits with 1 if a claim
fails or a script does not complete.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results.json", HERE / "README.md"
BEGIN, END = "<!-- run_all: begin -->\n", "<!-- run_all: end -->\n"
CLAIM = re.compile(r"^claim \((?P<claim>.+)\): (?P<verdict>holds|FAILS)$", re.MULTILINE)
PACKAGES = ("sktl", "torch", "torchvision", "scikit-learn")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as bench_cache")
    parser.add_argument(
        "--again", action="store_true", help="run what has a result too"
    )
    parser.add_argument("--timeout", type=float, default=7200, help="of each script")
    return parser.parse_args()


def state():
    """What a figure may depend on."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"machine": machine} | {name: version(name) for name in PACKAGES}


def run(script, timeout):
    """Run a script; return what it printed and whether it ended by itself."""
    command = [sys.executable, str(script)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=HERE
        )
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        return {"output": text.decode(), "status": f"stopped after {timeout:g} s"}
    # A claim that fails is exit status 1, and so is an exception.
    failed = done.returncode and not CLAIM.search(done.stdout)
    status = done.stderr.strip().rpartition("\n")[2] if failed else "complete"
    return {"output": done.stdout, "status": status}


def table(results):
    """A row of Markdown for each script: its question, and what came of its claims."""
    lines = ["| script | about | result | date, versions |", "|---|---|---|---|"]
    for name, result in sorted(results.items()):
        claims = dict(CLAIM.findall(result["output"]))
        failed = [claim for claim, found in claims.items() if found == "FAILS"]
        found = f"{len(claims) - len(failed)} of {len(claims)} claims hold"
        if failed:
            found += f"; FAILS: {'; '.join(failed)}"
        if result["status"] != "complete":
            found += f"; not complete: {result['status']}"
        when = f"{result['date']}, sktl {result['sktl']}, torch {result['torch']}"
        lines += [f"| [`{name}`](#{name}) | {about(name)} | {found} | {when} |"]
    return "\n".join(lines) + "\n"


def about(name):
    """The first line of a script's docstring."""
    first, *_ = (HERE / f"{name}.py").read_text("utf-8").splitlines()
    return first.removeprefix('"""').removesuffix(".")


def write(results, page=PAGE):
    """Put the table between the two marks of the page, and outputs in the sections."""
    text = page.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    for name, result in results.items():
        if result["status"] == "complete":
            after = with_output(after, name, result["output"])
    page.write_text(f"{before}{BEGIN}{table(results)}{END}{after}", "utf-8")


def with_output(text, name, output):
    """Replace the first block of a section; a section that is missing comes last."""
    lines = "\n".join(line.rstrip() for line in output.strip().splitlines())
    heading, block = f"## {name}\n", f"```text\n{lines}\n```\n"
    if heading not in text:
        return f"{text}\n{heading}\n`python benchmarks/{name}.py`.\n\n{block}"
    before, heading, rest = text.partition(heading)
    section, next_heading, after = rest.partition("\n## ")
    old = re.compile(r"```text\n.*?```\n", re.DOTALL)
    section = old.sub(lambda _: block, section, count=1)
    return "".join((before, heading, section, next_heading, after))


def main():
    options = arguments()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    now = state()
    for script in sorted(HERE.glob("bench_*.py")):
        name = script.stem
        known = results.get(name, {})
        if options.only and name not in options.only:
            continue
        if known.get("status") == "complete" and now.items() <= known.items():
            if not options.again:
                print(f"{name}: there already")
                continue
        print(f"{name} ...", flush=True)
        today = datetime.date.today().isoformat()
        results[name] = run(script, options.timeout) | now | {"date": today}
        RESULTS.write_text(json.dumps(results, indent=1), "utf-8")
        print(results[name]["output"], results[name]["status"], flush=True)
    if results:
        write(results)
    failed = [
        name
        for name, result in results.items()
        if result["status"] != "complete" or "FAILS" in result["output"]
    ]
    print(f"Failed, or not complete: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
