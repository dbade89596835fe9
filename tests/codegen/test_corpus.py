"""Corpora: the same from any way there, without duplicates, generated files and the answers of the evaluation."""

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ordinary_user import run_as_ordinary_user

from quadriga.codegen import corpus, docstrings, near_duplicates
from quadriga.codegen.filters import Contamination, Filters, exact_key, names_licence, parse, why_not
from quadriga.codegen.functions import functions
from quadriga.codegen.source_files import licence, packages, read
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError

GOOD = '''"""Numbers."""


def twice(number):
    """Twice the number that is given."""
    return 2 * number


class Stack:
    def push(self, item):
        """Puts an item on top of the others."""
        self.items.append(item)
        return self

    def bare(self):
        return 1
'''
LONG = "\n".join(f"def function_{n}(a, b):\n    return a * {n} + b - {n * n}\n\n" for n in range(40))


@pytest.fixture
def sources(tmp_path, builtin):
    """A folder of two packages, a wheel and an sdist."""
    folder = tmp_path / "site"
    (folder / "one" / "__pycache__").mkdir(parents=True)
    (folder / "two").mkdir()
    (folder / "one" / "good.py").write_text(GOOD)
    (folder / "one" / "__pycache__" / "no.py").write_text(GOOD)
    (folder / "one" / "long.py").write_text(LONG)
    (folder / "two" / "same.py").write_text(GOOD.replace("return 1", "return  1  # one"))
    (folder / "two" / "nearly.py").write_text(LONG.replace("function_7(a, b)", "function_seven(a, b)"))
    (folder / "two" / "generated.py").write_text(f"# Automatically generated, do not edit\n{LONG}")
    (folder / "two" / "broken.py").write_text("def f(:\n")
    (folder / "two" / "bytes.py").write_bytes(b"x = '\xff'\n")
    (folder / "two" / "wide.py").write_text(f"x = '{'ab' * 600}'\n")
    (folder / "two" / "nothing.py").write_text('"""Only this."""\n')
    problem = builtin["Quadriga/1"]
    (folder / "two" / "answer.py").write_text("import os\n\n" + problem.prompt + problem.canonical)
    (folder / "two-1.0.dist-info").mkdir()
    (folder / "two-1.0.dist-info" / "METADATA").write_text("Name: two\nLicense: MIT\n\nText")
    (folder / "two-1.0.dist-info" / "RECORD").write_text("two/same.py,,\n")
    wheel = tmp_path / "three-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("three/a.py", "import os\n\n\nprint(os.name)\n")
        archive.writestr("three-1.0.dist-info/METADATA", "Name: three\nLicense-Expression: Apache-2.0\n")
    sdist = tmp_path / "four-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as tar:
        classifier = "Classifier: License :: OSI Approved :: BSD License"
        for name, text in (
            ("four-1.0/b.py", "value = [1, 2, 3]\n"),
            ("four-1.0/PKG-INFO", f"Name: four\n{classifier}\n"),
        ):
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return tuple(map(str, (folder, wheel, sdist)))


def test_a_corpus_holds_what_it_should_and_says_what_it_dropped(sources, tmp_path):
    out = tmp_path / "corpus"
    report = corpus.build(corpus.Settings(sources), out)
    files = pq.read_table(out / corpus.FILES).to_pylist()
    kept = {(row["package"].split("/")[-1], row["path"]): row["licence"] for row in files}
    assert kept == {
        ("four-1.0.tar.gz", "four-1.0/b.py"): "BSD License",
        ("one", "good.py"): "unknown",
        ("one", "long.py"): "unknown",
        ("three-1.0-py3-none-any.whl", "three/a.py"): "Apache-2.0",
    }
    reasons = (
        "duplicate",
        "near-duplicate",
        "generated",
        "not-python",
        "not-text",
        "long-line",
        "empty",
        "contaminated",
    )
    assert dict(report.dropped) == dict.fromkeys(reasons, 1)
    assert report.seen == report.files + sum(report.dropped.values()) == 12
    assert json.loads((out / corpus.REPORT).read_text()) == report.as_json()
    rows = pq.read_table(out / corpus.FUNCTIONS).to_pylist()
    assert [row["name"] for row in rows] == ["twice", "Stack.push"]
    assert rows[1]["prompt"] == 'def push(self, item):\n    """Puts an item on top of the others."""\n'
    assert rows[1]["body"] == "    self.items.append(item)\n    return self\n"
    assert rows[1]["docstring"] == "Puts an item on top of the others."


def test_a_build_that_was_killed_goes_on_and_reads_nothing_twice(sources, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = corpus.Settings(sources)
    corpus.build(settings, whole)

    def dies(work, left):
        yield work(left[0])
        yield work(left[2])
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        corpus.build(settings, broken, dies)
    seen = []

    def counts(work, left):
        for package in left:
            seen.append(package.name)
            yield work(package)

    assert corpus.build(settings, broken, counts).resumed == 2
    assert len(seen) == len(set(seen)) == 2
    for name in (corpus.FILES, corpus.FUNCTIONS, corpus.REPORT):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_corpus_on_ray_is_the_same(sources, tmp_path, ray_session):
    here, there = tmp_path / "here", tmp_path / "there"
    corpus.build(corpus.Settings(sources), here)
    corpus.build(corpus.Settings(sources), there, corpus.on_ray)
    assert (here / corpus.FILES).read_bytes() == (there / corpus.FILES).read_bytes()


def test_licences_can_be_chosen(sources, tmp_path):
    report = corpus.build(corpus.Settings(sources, licences=("apache", "MIT")), tmp_path / "c")
    assert dict(report.licences) == {"Apache-2.0": 1, "MIT": 2}


def test_what_is_wrong_is_said(sources, tmp_path):
    with pytest.raises(UserError, match="expected a folder, a wheel or an sdist"):
        corpus.build(corpus.Settings(("nowhere",)), tmp_path / "c")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no Python files in"):
        corpus.build(corpus.Settings((str(tmp_path / "bare"),)), tmp_path / "c")
    out = tmp_path / "corpus"
    corpus.build(corpus.Settings(sources), out)
    with pytest.raises(UserError, match="licences: expected names such as MIT,BSD,Apache, got 'MIT,'"):
        corpus.Settings(sources, licences=("MIT", ""))
    with pytest.raises(UserError, match=r"holds a corpus with near = 0\.85, now it is 0\.5"):
        corpus.build(corpus.Settings(sources, near=0.5), out)
    part = next((out / corpus.PARTS).glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged; delete it, and the same command goes on"):
        corpus.build(corpus.Settings(sources), out)
    (out / corpus.FILES).write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="damaged, or no file of a corpus"):
        corpus.table(out / corpus.FILES, ["text"])
    with pytest.raises(UserError, match=r"has no column|no file of a corpus"):
        corpus.table(out / corpus.FUNCTIONS, ["text"])


def test_an_empty_corpus_and_a_damaged_archive_are_said(tmp_path):
    bad = tmp_path / "bad.whl"
    bad.write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(UserError, match=r"the corpus is empty; of 0 files all were dropped \(unreadable 1\)"):
        corpus.build(corpus.Settings((str(bad),)), tmp_path / "c")
    with pytest.raises(UserError, match="cannot be read"):
        list(read(packages([bad])[0]))


def zipped(path, name, text):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return bytearray(path.read_bytes())


def test_what_is_damaged_or_encrypted_costs_its_own_package_only(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    damaged = zipped(folder / "damaged.whl", "a.py", GOOD)
    damaged[30 + len("a.py")] = 0xFF  # no such kind of block
    (folder / "damaged.whl").write_bytes(damaged)
    encrypted = zipped(folder / "encrypted.zip", "a.py", GOOD)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.find(signature) + place] |= 1
    (folder / "encrypted.zip").write_bytes(encrypted)
    text = "".join(f"value_{random.Random(n).random()} = {n}\n" for n in range(10_000)).encode()
    with tarfile.open(folder / "torn.tar.xz", "w:xz") as tar:
        info = tarfile.TarInfo("a.py")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    torn = bytearray((folder / "torn.tar.xz").read_bytes())
    middle = len(torn) // 2
    torn[middle : middle + 100] = bytes(100)
    (folder / "torn.tar.xz").write_bytes(torn)
    (folder / "good.py").write_text(GOOD)
    report = corpus.build(corpus.Settings((str(folder),)), tmp_path / "c")
    assert report.files == 1 and dict(report.dropped) == {"unreadable": 3}


def test_what_one_may_not_read_is_said():
    script = (
        "import shutil, tempfile\n"
        "from pathlib import Path\n"
        "from quadriga.codegen.source_files import packages, read\n"
        "from quadriga.platform.errors import UserError\n"
        "folder = Path(tempfile.mkdtemp())\n"
        "for name in ('a.py', 'b/c.py'):\n"
        "    (folder / name).parent.mkdir(exist_ok=True)\n"
        "    (folder / name).write_text('x = 1\\n')\n"
        "(folder / 'a.py').chmod(0)\n"
        "(folder / 'b/c.py').chmod(0)\n"
        "for package in packages([folder]):\n"
        "    try:\n"
        "        print(list(read(package)))\n"
        "    except UserError as error:\n"
        "        print(error)\n"
        "shutil.rmtree(folder)\n"
    )
    done = run_as_ordinary_user(script)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2 and all("cannot be read: [Errno 13] Permission denied" in line for line in said)


def test_a_file_is_read_as_far_as_max_bytes(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    text = "".join(f"value_{n} = {n}\n" for n in range(70_000))
    assert len(text) > 1 << 20
    (folder / "long.py").write_text(text)
    for most, kept in ((len(text), [text]), (len(text) - 1, None)):
        settings = corpus.Settings((str(folder),), Filters(max_bytes=most), against=())
        out = tmp_path / str(most)
        if kept is None:
            with pytest.raises(UserError, match="too-large 1"):
                corpus.build(settings, out)
        else:
            corpus.build(settings, out)
            assert corpus.table(out / corpus.FILES, ["text"]).column("text").to_pylist() == kept


@pytest.mark.parametrize(
    ("said", "name", "named"),
    [
        ("MIT License", "mit", True),
        ("BSD-3-Clause, MIT", "MIT", True),
        ("Limited Use", "MIT", False),
        ("AGPL-3.0", "GPL", False),
        ("LGPLv3", "GPL", False),
        ("GPLv3+", "GPL", True),
        ("Apache2", "Apache", True),
        ("Apache Software License", "apache", True),
        ("Permitted", "MIT", False),
    ],
)
def test_licences_are_named_by_whole_words(said, name, named):
    assert names_licence(said, name) is named


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n" * 5, None),
        ("\n\n", "empty"),
        ("# just words\n", "empty"),
        ("x = '" + "a" * 1100 + "'\n", "long-line"),
        (("x = '" + "a" * 150 + "'\n") * 3, "mean-line"),
        ("(((((((((((((((1)))))))))))))))\n", "few-alphanumerics"),
        ("# @generated by a tool\nx = 1\n", "generated"),
    ],
)
def test_filters_are_the_paper_s(text, reason):
    assert why_not(text.encode(), Filters())[0] == reason
    assert why_not(b"x" * 11, Filters(max_bytes=10))[0] == "too-large"


def test_solutions_are_found_under_other_words(builtin):
    problem = builtin["Quadriga/0"]
    against = Contamination([problem])
    bare = "def running_maximum(numbers):\n" + problem.canonical
    assert against.found(problem.prompt) and against.found(bare)
    assert not against.found(GOOD) and not against.found("def running_maximum(numbers):\n    return numbers\n")


def test_exact_duplicates_differ_in_white_space_and_comments_only():
    assert exact_key("x = 1\n") == exact_key("x  =  1  # one\n\n") != exact_key("x = 2\n")
    assert exact_key("    return '#fff'\n") != exact_key("    return '#000'\n")
    assert exact_key("    return 'a  b'\n") != exact_key("    return 'a b'\n")
    assert exact_key("    if a:\n        b()\n    c()\n") != exact_key("    if a:\n        b()\n        c()\n")
    assert exact_key("    if a:\n        b(1, 2)\n") == exact_key("  if a:  # one\n   b(1,\n2)\n\n")
    assert exact_key("f(") == exact_key(" f( \n")


@given(st.integers(0, 60), st.integers(0, 10**6))
def test_signatures_estimate_similarity(common, seed):
    def words(tag, count):
        return " ".join(f"{tag}{(seed + n) % 9973}" for n in range(count))

    first = words("c", common + 5) + " " + words("a", 60 - common)
    second = words("c", common + 5) + " " + words("b", 60 - common)
    shingles = [{tuple(t.split()[n : n + 5]) for n in range(len(t.split()) - 4)} for t in (first, second)]
    true = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    found = near_duplicates.similarity(near_duplicates.signature(first), near_duplicates.signature(second))
    assert abs(found - true) < 0.25  # five standard deviations at one half


def test_functions_of_the_standard_library_are_python_when_put_together():
    import statistics
    import textwrap

    for module in (statistics, textwrap):
        text = Path(module.__file__).read_text()
        found = list(functions(text, parse(text)))
        assert len(found) >= 5
        for each in found:
            assert parse(each.prompt + each.body) is not None
            assert each.docstring.split()[0] in each.prompt


@pytest.mark.parametrize("separator", ["\x0c", "\x0b", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\r"])
def test_what_ends_a_line_for_str_and_not_for_python_moves_no_text(separator):
    head = f"# one{separator}# two\n" + ("\x0c\n" if separator == "\x0c" else "")
    text = f'{head}def f(a):\n    """Adds one{separator} to it."""\n    b = a + 1\n    return b\n'
    (found,) = functions(text, parse(text))
    assert found.prompt.startswith('def f(a):\n    """Adds one') and found.prompt.endswith(' to it."""\n')
    assert found.body == "    b = a + 1\n    return b\n"
    _, bare = docstrings.split(text, "f")
    assert bare == head.replace("\r", "\n") + "def f(a):\n    b = a + 1\n    return b\n"


def test_the_licence_is_the_package_s(sources):
    said = {each.name.split("/")[-1]: licence(each) for each in packages([*map(__import__("pathlib").Path, sources)])}
    assert said == {
        "one": "unknown",
        "two": "MIT",
        "three-1.0-py3-none-any.whl": "Apache-2.0",
        "four-1.0.tar.gz": "BSD License",
    }


def test_build_prints_what_was_dropped_and_why(sources, tmp_path, capsys):
    out = tmp_path / "corpus"
    assert run(["code", "corpus", "build", *sources, "-o", str(out), "--against", "builtin"]) == 0
    said = capsys.readouterr().out
    assert "12 files of 4 packages" in said and "4 files" in said and "2 functions" in said
    assert "near-duplicate       1  (nearly the same text as an earlier file)" in said
    assert run(["code", "corpus", "build", *sources, "-o", str(out), "--against", "builtin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 4
    assert run(["code", "corpus", "build", "nowhere", "-o", str(out)]) == 2
