"""Effects of Ctrl-C and of a vanished terminal on a run and on a followed job."""

import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

from tests.cli.conftest import Done, environment


def in_the_foreground() -> None:
    """Reset signals to a shell's defaults, even if the tests run under `nohup`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def with_this_terminal() -> None:
    """Make the terminal the controlling one, so that its end sends SIGHUP."""
    in_the_foreground()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def python(code: str, *arguments: str | Path, cwd: Path, start_new_session: bool = False) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=60,
        preexec_fn=in_the_foreground,
        start_new_session=start_new_session,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_only_a_second_ctrl_c_ends_a_run_at_once(tmp_path: Path) -> None:
    code = (
        "import signal; from w2s_ray.cli.live import Interrupt\n"
        "with Interrupt(print) as interrupt:\n"
        "    for name in ('SIGHUP', 'SIGHUP', 'SIGTERM', 'SIGTERM'): signal.raise_signal(signal.Signals[name])\n"
        "    print('asked' if interrupt.event.is_set() else 'not asked', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('too late')\n"
    )
    done = python(code, cwd=tmp_path)
    assert (done.code, done.out) == (130, "asked\n"), done


def test_a_signal_that_ends_rays_processes_too_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    shutil.copy(shutil.which("sleep") or "", tmp_path / "raylet")
    code = (
        "import os, signal, subprocess, sys, time; from w2s_ray.cli import live\n"
        "live._SECONDS_TO_LEAVE = 0.2\n"
        "with live.Interrupt(lambda: print('no Ray', flush=True)):\n"
        "    ray = subprocess.Popen([sys.argv[1], '60'])\n"
        "    os.killpg(0, signal.SIGTERM)\n"
        "    time.sleep(50)\n"
    )
    done = python(code, tmp_path / "raylet", cwd=tmp_path, start_new_session=True)
    assert (done.code, done.out) == (1, "no Ray\n"), done


DROPPED = """
import sys, time
from pathlib import Path
from w2s_ray.cli.live import Interrupt, InterruptibleView, view_for
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import Interrupted
from w2s_ray.scheduling.status import StudyStatus

folder = Path(sys.argv[1])
terminal.capture(folder / "run.log")
try:
    with view_for(terminal.out) as view, Interrupt(print) as interrupt:
        view = InterruptibleView(view, terminal.out, interrupt.event)
        while not (folder / "gone").exists():
            view.update(StudyStatus(num_stages=3))
            time.sleep(0.05)
        for _ in range(20):
            view.update(StudyStatus(num_stages=3))
        (folder / "stop_requested").write_text(str(interrupt.event.is_set()))
        raise Interrupted("stopped", "a hint")
except Interrupted as error:
    terminal.explain(error)
    (folder / "ended").touch()
"""


def test_a_run_ends_in_order_when_its_terminal_vanishes(tmp_path: Path) -> None:
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
    assert (tmp_path / "stop_requested").read_text() == "True" and (tmp_path / "ended").exists(), log
    assert process.returncode == 0 and "OSError" not in log, log


def test_ctrl_c_on_a_followed_job_prints_how_to_end_the_job(home: Path) -> None:
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
    assert "ray job stop --address http://here:8265 job-1" in done.out
