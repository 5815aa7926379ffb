"""What Ctrl-C and a terminal that goes away do to a run and to a job that is followed."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

from tests.cli.conftest import Done, environment


def in_the_foreground() -> None:
    """Signals as a shell leaves them, also where the tests themselves run under `nohup`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def with_this_terminal() -> None:
    """The terminal's end is told to the process whose own it is."""
    in_the_foreground()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def python(code: str, *arguments: str | Path, cwd: Path) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=60,
        preexec_fn=in_the_foreground,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_only_ctrl_c_said_twice_ends_a_run_at_once(tmp_path: Path) -> None:
    code = (
        "import signal; from w2s_ray.cli.interrupt import Interrupt\n"
        "with Interrupt() as interrupt:\n"
        "    for name in ('SIGHUP', 'SIGHUP', 'SIGTERM', 'SIGTERM'): signal.raise_signal(signal.Signals[name])\n"
        "    print('asked' if interrupt.event.is_set() else 'not asked', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('too late')\n"
    )
    done = python(code, cwd=tmp_path)
    assert (done.code, done.out) == (130, "asked\n"), done


DROPPED = """
import sys, time
from pathlib import Path
from w2s_ray.cli.interrupt import Announcing, Interrupt
from w2s_ray.cli.live import view_for
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import Interrupted
from w2s_ray.scheduling.status import StudyStatus

folder = Path(sys.argv[1])
terminal.capture(folder / "run.log")
try:
    with view_for(terminal.out) as view, Interrupt() as interrupt:
        view = Announcing(view, terminal.out, interrupt.event)
        while not (folder / "gone").exists():
            view.update(StudyStatus(num_stages=3))
            time.sleep(0.05)
        for _ in range(20):
            view.update(StudyStatus(num_stages=3))
        (folder / "seen_off").write_text(str(interrupt.event.is_set()))
        raise Interrupted("stopped", "a rule", "a remedy")
except Interrupted as error:
    terminal.explain(error)
    (folder / "ended").touch()
"""


def test_a_terminal_that_goes_away_lets_the_run_end_in_order(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DROPPED, str(tmp_path)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environment(), "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=with_this_terminal,
    )
    os.close(follower)
    screen = ""
    while "0/3 stages done" not in screen:
        assert select.select([leader], [], [], 60)[0], screen
        screen += os.read(leader, 65536).decode(errors="replace")
    os.close(leader)
    process.send_signal(signal.SIGHUP)  # the kernel has sent one already, and a shell sends its own
    (tmp_path / "gone").touch()
    process.wait(60)
    log = (tmp_path / "run.log").read_text()
    assert (tmp_path / "seen_off").read_text() == "True" and (tmp_path / "ended").exists(), log
    assert process.returncode == 0 and "OSError" not in log, log


def test_ctrl_c_on_a_followed_job_says_that_the_job_goes_on_and_how_to_end_it(home: Path) -> None:
    code = (
        "import asyncio, os, signal, sys; from w2s_ray.cli import main, submit\n"
        "class Client:\n"
        "    def submit_job(self, entrypoint, **_): return 'job-1' if '--yes' in entrypoint else 'job-2'\n"
        "    async def tail_job_logs(self, job):\n"
        "        yield 'a line of the job\\n'\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await asyncio.sleep(30)\n"
        "submit._client = lambda address: Client()\n"
        "sys.argv = ['w2s', 'submit', 'tiny.yaml', '--address', 'http://here:8265', '--store', '/store', '--yes']\n"
        "main.main()"
    )
    done = python(code, cwd=home)
    assert done.code == 130, done
    assert "a line of the job" in done.out
    assert "job-1 goes on; end it: ray job stop --address http://here:8265 job-1" in done.out
