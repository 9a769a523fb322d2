"""``linnet verify``, ``show`` and ``certify`` as a user meets them: output, exit codes, one line for each refusal."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINNET = [sys.executable, "-c", "from linnet.cli import main; main()"]

MINE = '''"""Two claims of my own."""

from linnet.trials import Layer, Quadratic, claim, scalar, sq


@claim("mine/true", setting=Layer, relation="<=", source="me")
def full_fine_tuning_does_not_hurt(layer):
    """E_i(full) <= E_i(pre)."""
    return layer.full_ft.train_risk, layer.pretrained.train_risk


@claim("mine/false", setting=Quadratic, relation="<=", source="me", hypotheses=[Quadratic.positive_definite])
def inverse_shrinks(q):
    """eps^T H^-1 eps <= |eps|^2."""
    return scalar(q.eps.T @ q.H_inv @ q.eps), sq(q.eps)
'''

RAISES = (
    MINE
    + '''

@claim("mine/broken", setting=Quadratic, relation="==", source="me")
def broken(q):
    """Broken."""
    return q.nothing, 0
'''
)


def linnet(*arguments, cwd=None):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [*LINNET, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=600
    )


def refused(done, code=2):
    """One line on standard error, no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("linnet: ")
    return lines[0]


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "claim.py"
    file.write_text(MINE)
    return file


def test_a_claim_of_ones_own_is_short_and_runs_from_anywhere(mine, tmp_path):
    assert len(MINE.splitlines()) <= 25
    done = linnet("verify", "claim.py", "--budget", "quick", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    assert [(row["id"], row["verdict"]) for row in out["claims"]] == [("mine/false", "refuted"), ("mine/true", "holds")]
    assert (out["seed"], out["budget"]) == (0, "quick")
    assert {"id", "verdict", "relation", "instances", "margin", "ratio", "tight", "hypotheses", "certificate",
            "replaced_by", "seconds"} <= set(out["claims"][0])  # fmt: skip
    assert "mine/false" in done.stdout

    assert "no claim 'mine/false'" in linnet("certify", "out.json", cwd=tmp_path).stdout
    stands = linnet("certify", "out.json", "--claims", "claim.py", cwd=tmp_path)
    assert stands.returncode == 0
    assert "certified" in stands.stdout


def test_two_processes_give_the_same_json(mine, tmp_path):
    outs = []
    for jobs in (1, 2):
        file = tmp_path / f"{jobs}.json"
        assert linnet("verify", mine, "--budget", "quick", "--jobs", jobs, "--json", file, "--seed", 5).returncode == 0
        out = json.loads(file.read_text())
        outs.append([row | {"seconds": 0} for row in out["claims"]])
    assert json.dumps(outs[0]) == json.dumps(outs[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_claim_that_cannot_run_does_not_stop_the_others(tmp_path, jobs):
    file = tmp_path / "claim.py"
    file.write_text(RAISES)
    done = linnet("verify", file, "--budget", "quick", "--jobs", jobs, "--json", tmp_path / "out.json")
    assert done.returncode == 1
    assert "mine/broken could not be tried" in done.stderr
    assert "Traceback" not in done.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    assert [row["id"] for row in out["claims"]] == ["mine/false", "mine/true"]
    assert "nothing" in out["failures"]["mine/broken"]


def test_show_says_what_was_found_or_why_it_could_not(tmp_path):
    done = linnet("show", "liu2025/eq-56")
    assert done.returncode == 0
    for word in ("refuted", "source", "liu2025, eq. (56)", "hypothesis", "counterexample, exact", "H = "):
        assert word in done.stdout
    file = tmp_path / "claim.py"
    file.write_text(RAISES)
    done = linnet("show", file)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_one_line_and_two(tmp_path, mine):
    missing = tmp_path / "no" / "out.json"
    assert "existing folder" in refused(linnet("verify", "--json", missing)), "and before the work begins"
    assert "cannot be written" in refused(linnet("verify", mine, "--json", tmp_path))
    assert "no claim 'nothing'" in refused(linnet("verify", "nothing"))
    assert "no claim file" in refused(linnet("verify", tmp_path / "none.py"))
    for name, text, said in [
        ("syntax.py", "def (", "SyntaxError"),
        ("empty.py", "", "declares no claim"),
        ("quits.py", "raise SystemExit(0)", "SystemExit"),
    ]:
        (tmp_path / name).write_text(text)
        assert said in refused(linnet("verify", tmp_path / name, "--json", tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()
    for bad in (["--budget", "endless"], ["--jobs", "0"], ["--seed", "-1"], ["--no-such"]):
        assert "see linnet verify --help" in refused(linnet("verify", mine, *bad))
    assert "No such command" in refused(linnet("verfy"))
    assert linnet().returncode == 2


def test_certify_tells_forged_from_malformed(tmp_path, mine):
    out = tmp_path / "out.json"
    assert linnet("verify", "liu2025/eq-56", "liu2025/eq-58", "--budget", "quick", "--json", out).returncode == 0
    assert linnet("certify", out).returncode == 0
    ledger = json.loads(out.read_text())
    one = tmp_path / "one.json"
    record = ledger["claims"][0]["certificate"]
    one.write_text(json.dumps(record))
    assert linnet("certify", one).returncode == 0
    one.write_text(json.dumps(record | {"observed": "99"}))
    forged = linnet("certify", one)
    assert forged.returncode == 1
    assert "rejected" in forged.stdout
    one.write_text(json.dumps({"claim": "liu2025/eq-56"}))
    assert linnet("certify", one).returncode == 2
    for content in ("{", "[]", '{"claims": []}'):
        one.write_text(content)
        refused(linnet("certify", one))
    refused(linnet("certify", tmp_path / "missing.json"))
    refused(linnet("certify", out, "--claims", tmp_path / "none.py"))


def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *children_of(child)]
    return found


def worked(pid):
    """Seconds of processor time so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "only-the-parent"])
def test_an_interrupt_leaves_nothing_behind(tmp_path, jobs, whole_group):
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [*LINNET, "verify", "--jobs", str(jobs), "--json", str(out), "--html", str(tmp_path / "out.html")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # Python takes no notice of an interrupt that it is started to ignore, as under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the test starts no threads
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            workers = children_of(process.pid) if jobs == 2 else [process.pid]
            if len([pid for pid in workers if worked(pid) > 2]) >= jobs:  # past the imports, at work
                break
            time.sleep(0.1)
        assert process.poll() is None, process.stderr.read()
        children = children_of(process.pid)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert [line for line in err.splitlines() if line.strip()] == ["linnet: interrupted; nothing was written"], err
        time.sleep(1)
        assert not [pid for pid in children if alive(pid)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever failed above, nothing may go on computing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [["yang2024"], ["--json", "ledger.json"]])
def test_the_self_test_takes_neither_names_nor_a_ledger(more, tmp_path):
    assert "--self-test" in refused(linnet("verify", "--self-test", *more, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
