"""Processes that do runs: on this machine, and on a cluster of two workers, one of which is killed."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import meta_opt
from meta_opt.errors import MetaOptError
from meta_opt.studies.tasks import Task
from meta_opt.studies.workers import Worker, here, on_cluster

MODULE = "slow_worker"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What runs have begun; the worker can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for processes that are started otherwise
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    return lambda: Counter((tmp_path / "begun").read_text().splitlines())


def tasks(count, seconds=0.1, **work):
    return [Task((), run, {"name": "task", "seconds": seconds, **work}) for run in range(count)]


def test_runs_are_done_by_processes_that_stay(begun):
    done = {task.run: made for task, made in here(tasks(5), 2, MODULE)}
    assert done == {run: {"results": {"double": 2 * run}, "seconds": {"total": 0.1}} for run in range(5)}
    assert set(begun().values()) == {1}


def test_where_no_process_can_be_started_no_run_has_failed():
    assert [made for _, made in here(tasks(2), 1, "no_such_module")] == 2 * [{"no_start": "status 1"}]


def test_a_process_imports_nothing_from_the_current_folder(begun, tmp_path, monkeypatch):
    """And what is printed while it starts is no answer."""
    monkeypatch.chdir(tmp_path)
    for name in ("slow_worker", "json", "runpy"):
        (tmp_path / f"{name}.py").write_text("raise ZeroDivisionError\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("print('hello', flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    assert [made["results"] for _, made in here(tasks(1), 1, MODULE)] == [{"double": 0}]


@pytest.mark.parametrize(
    ("perform", "request_line", "status", "said"),
    [
        ("None", b"", 0, ""),
        ("lambda work, run: sys.exit(1)", b'{"work": {}, "run": 0}\n', 1, ""),
        ("lambda work, run: 1 / 0", b'{"work": {}, "run": 0}\n', 1, "ZeroDivisionError: division by zero\n"),
    ],
    ids=["idle", "signal", "error"],
)
def test_a_process_ends_by_itself_while_its_input_is_open(perform, request_line, status, said, tmp_path):
    """Also then it removes its folder, and there is nothing of Python's own to read."""
    code = f"import sys; from meta_opt.studies import workers; workers._IDLE = 0.2; workers.serve({perform})"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        process.stdin.write(request_line)
        process.stdin.flush()
        assert process.wait(60) == status
        assert process.stderr.read().decode().endswith(said) if said else not process.stderr.read()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("request_line", [b"", b'{"work": {}, "run": 0}\n'], ids=["at its start", "after a run"])
def test_a_process_says_nothing_when_nobody_hears_its_answers(request_line, tmp_path):
    code = "from meta_opt.studies import workers; workers.serve(lambda work, run: {})"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        if request_line:
            assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        process.stdin.write(request_line)
        process.stdin.flush()
        assert process.wait(60) == 0
        assert not process.stderr.read()
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_in_the_middle_is_tried_three_times(begun):
    (fatal,), others = tasks(1, kills=True), tasks(2)
    made = {(task is fatal, task.run): made for task, made in here([fatal, *others], 1, MODULE)}
    assert made[True, 0]["error"] == "the process ended in the middle, 3 times (SIGKILL)"
    assert made[False, 1]["results"] == {"double": 2}
    assert begun() == {"task 0": 4, "task 1": 1}


def test_processes_end_with_the_study(begun):
    with closing(here(tasks(9, seconds=60.0), 2, MODULE)) as ending, pytest.raises(TimeoutError):
        first_within(ending, 3.0, begun)
    assert sum(begun().values()) == 2


def first_within(ending, seconds, begun):
    """Ask for a result, and be interrupted."""

    def interrupt(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        next(ending)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_process_ends_with_its_parent_and_leaves_nothing(begun, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = f"from meta_opt.studies.workers import Worker; w = Worker({MODULE!r}); print(w._process.pid, flush=True); "
    code += "w.perform({'name': 'task', 'seconds': 100.0}, 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_until(lambda: Path(os.environ["BEGUN"]).exists())
        parent.kill()
    wait_until(lambda: not running(pid))
    assert not running(pid)
    assert list(tmp_path.glob("meta-opt-study-*")) == []


def test_stop_says_how_it_ended(begun):
    worker = Worker(MODULE)
    assert worker.perform({"name": "task", "seconds": 0.0}, 4) == {"results": {"double": 8}, "seconds": {"total": 0.0}}
    assert worker.stop() == "status 0"
    assert worker.perform({"name": "task", "seconds": 0.0}, 4) is None


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------ cluster


@pytest.fixture
def cluster(tmp_path, begun):
    """The address of a scheduler, and two workers with one thread each."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    run = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([*run, "--scheduler-file", str(file)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    run = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
    run += ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
    workers = [subprocess.Popen(run, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(2)]
    wait_until(lambda: file.exists() and '"address"' in file.read_text())
    address = next(line.split('"')[3] for line in file.read_text().splitlines() if '"address"' in line)
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_loses_no_run(cluster, begun):
    address, workers = cluster
    many = tasks(8, seconds=1.5)
    done = []
    for task, made in on_cluster(many, address, MODULE):
        done.append((task.run, made["results"]["double"]))
        if len(done) == 2:
            wait_until(lambda: sum(begun().values()) == 4)  # both are at work
            workers[0].kill()
    assert sorted(done) == [(run, 2 * run) for run in range(8)]
    assert sum(begun().values()) == 9  # the one that was lost once more


@pytest.fixture
def pretended(monkeypatch):
    """A cluster whose future of each run is the one that is set, with what was submitted."""
    cluster = SimpleNamespace(futures=[], submitted=[], workers={"tcp://there:1": 1})

    class Client:
        loop = None

        def __init__(self, address, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def nthreads(self):
            return cluster.workers

        def submit(self, *work, key):
            cluster.submitted.append(work)
            future = cluster.futures[len(cluster.submitted) - 1]
            future.key = key
            return future

    module = SimpleNamespace(Client=Client, as_completed=lambda futures, loop: futures)
    monkeypatch.setitem(sys.modules, "distributed", module)
    return cluster


def future(result, failed=None):
    return SimpleNamespace(exception=lambda: failed, result=result, release=lambda: None)


def test_runs_that_are_lost_with_their_workers_are_no_results(pretended):
    made = {"results": {}, "seconds": {}}
    pretended.futures = [future(None, RuntimeError("killed\nby hand")), future(lambda: made)]
    ending = on_cluster(tasks(2), "tcp://there:2", MODULE)
    task, result = next(ending)
    assert (task.run, result) == (1, made)
    said = r"^1 runs were lost with their workers; the same command does them \(RuntimeError: killed by hand\)$"
    with pytest.raises(MetaOptError, match=said):
        next(ending)


def test_a_scheduler_that_is_lost(pretended):
    def cancelled():
        raise CancelledError

    pretended.futures = [future(cancelled)]
    with pytest.raises(MetaOptError, match="--cluster tcp://there:2: the scheduler was lost; the same command goes on"):
        list(on_cluster(tasks(1), "tcp://there:2", MODULE))


@pytest.mark.parametrize("workers", [{}, {"tcp://there:1": 1}], ids=["none", "one"])
def test_where_there_are_no_workers_it_is_said(pretended, capsys, workers):
    pretended.workers, pretended.futures = workers, [future(dict)]
    assert len(list(on_cluster(tasks(1), "tcp://there:2", MODULE))) == 1
    assert capsys.readouterr().out == ("" if workers else "waiting for workers of tcp://there:2\n")


def test_a_worker_without_meta_opt_or_with_another_version_says_so(pretended, tmp_path, monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle")
    pretended.futures = [future(dict)]
    list(on_cluster(tasks(1), "tcp://there:2", MODULE))
    ((perform, *work),) = pretended.submitted
    (tmp_path / "meta_opt.py").write_text("raise ImportError('not here')\n")
    code = "import cloudpickle, sys; perform, work = cloudpickle.load(sys.stdin.buffer); print(perform(*work))"
    sent = cloudpickle.dumps((perform, work))
    run = subprocess.run([sys.executable, "-c", code], input=sent, cwd=tmp_path, capture_output=True, check=True)
    assert run.stdout.decode().endswith(" meta-opt cannot be imported (not here)'}\n")
    monkeypatch.setattr(meta_opt, "__version__", "9.8")
    assert perform(*work)["unfit"].endswith(f" meta-opt is 9.8, and here {work[-1]}")


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there():
    pytest.importorskip("distributed")
    with pytest.raises(MetaOptError, match="--cluster tcp://127.0.0.1:1: there is no scheduler to be reached"):
        list(on_cluster(tasks(1), "tcp://127.0.0.1:1", MODULE))


def test_without_distributed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MetaOptError, match="--cluster needs dask.distributed: pip install 'meta-opt\\[cluster\\]'"):
        list(on_cluster(tasks(1), "tcp://127.0.0.1:1", MODULE))


@pytest.mark.parametrize("address", ["nonsense", "foo://x:3", "tls://127.0.0.1:3"])
def test_an_address_that_is_none_is_refused_at_once(address):
    pytest.importorskip("distributed")
    started = time.monotonic()
    with pytest.raises(MetaOptError, match=f"--cluster {address}: there is no scheduler to be reached"):
        list(on_cluster(tasks(1), address, MODULE))
    gc.collect()  # the stock client waits for 20 s, and prints, when it is forgotten
    assert time.monotonic() - started < 8
