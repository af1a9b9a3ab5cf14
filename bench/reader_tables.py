"""What the scripts that measure the readers of the cache share: running kvant, tables between two marks of a
page, and docs/readers.csv, from which bench/results makes its section.

Of docs/readers.csv each line is one number: reader, model, cache, what was measured (a pooling, a score, a
way to answer), measure, value, its 95 % interval where there is one, and of how many texts, answers or
questions. A script puts its own lines in the place of those with the same reader, model, cache, what and
measure; shares are of 1.
"""
import csv
import os
import subprocess

DATA = os.environ.get("KVANT_DATA", "../shared/data")
BUILD = os.environ.get("KVANT_BUILD", "build")
PREFIX = os.environ.get("KVANT_RUN", "").split()
FIELDS = ("reader", "model", "cache", "what", "measure", "value", "low", "high", "n")
KEY = FIELDS[:5]
CSV = "docs/readers.csv"


def kvant(*words, shows=False):
    """Standard output; shows: what it says goes to the terminal."""
    done = subprocess.run([*PREFIX, f"{BUILD}/kvant", *words], stdout=subprocess.PIPE,
                          stderr=None if shows else subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr or 1)
    return done.stdout


def model_path(name):
    done = subprocess.run(["tools/get-model", name], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[-2]


def plan_words(path, spec):
    """A specification, calibrated once: from then on the plan that was saved."""
    return ["--kv", path] if os.path.exists(path) else ["--kv", spec, "--save-plan", path]


def write(path, tables):
    """Each table between its two marks; what has none is printed alone."""
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    for name, lines in tables.items():
        print(f"\n{name}\n" + "\n".join(lines))
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if lines and begin in text and end in text:
            first, last = text.index(begin) + len(begin), text.index(end)
            text = text[:first] + "\n" + "\n".join(lines) + "\n" + text[last:]
    if text:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def points(share):
    """100 times a difference, with the sign that it has."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def number(value):
    return "" if value is None or value != value else f"{float(value):.7g}"


def fact(reader, model, cache, what, measure, value, n, interval=(None, None)):
    return dict(zip(FIELDS, (reader, model, cache, what, measure, number(value), number(interval[0]),
                             number(interval[1]), str(n))))


def kept(path=CSV):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def keep(facts, path=CSV):
    """In the place of the old ones where there are some, else behind all."""
    new = {tuple(row[k] for k in KEY): row for row in facts}
    rows = [new.pop(tuple(row[k] for k in KEY), row) for row in kept(path)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows + list(new.values()))
