"""Files through worker processes: one that kills its decoder, or keeps it for ever, costs one answer, not the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from apt_edge.errors import AptEdgeError

Answer = dict[str, Any]


class _Worker:
    """A process of `train.check.worker`."""

    def __init__(self) -> None:
        rooms = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (rooms, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "train.check.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": paths},
        )
        if self._line() != "ready\n":
            raise AptEdgeError("a worker process does not start", fix="see its message above")

    def ask(self, job: Answer, limit: float) -> Answer:
        """The answer to a job; the reason when the process dies or takes longer than `limit` seconds."""
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self.process.kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            line = self._line()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            found: Answer = json.loads(line)
            return found
        code = self.process.wait()
        if timed_out.is_set():
            return {"reason": f"decoding took longer than {limit:g} s and was stopped"}
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return {"reason": f"the decoder crashed: its process {ended}"}

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def run_jobs(jobs: Sequence[Answer], workers: int, limit: float) -> Iterator[tuple[int, Answer]]:
    """Answer jobs in worker processes.

    Args:
        jobs: as `train.check.worker.answer` takes them.
        workers: processes.
        limit: seconds for one job.

    Yields:
        Place of a job and its answer, in the order in which they are done.

    Raises:
        AptEdgeError: there is no such decoder, or it is not installed.
    """
    own = threading.local()
    started: list[_Worker] = []
    stopped = threading.Event()

    def ask(job: Answer) -> Answer:
        if stopped.is_set():
            return {}
        if getattr(own, "worker", None) is None:
            own.worker = _Worker()
            started.append(own.worker)
        found: Answer = own.worker.ask(job, limit)
        if own.worker.process.poll() is not None:
            started.remove(own.worker)
            own.worker = None
        return found

    pool = ThreadPoolExecutor(workers)
    try:
        places = {pool.submit(ask, job): place for place, job in enumerate(jobs)}
        for done in as_completed(places):
            found = done.result()
            if "fatal" in found:
                wrong, what, fix = found["fatal"]
                raise AptEdgeError(wrong, found=what, fix=fix)
            yield places.pop(done), found
    finally:  # after Ctrl-C, too: nobody waits for a file that is being decoded
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in list(started):
            worker.process.kill()
        pool.shutdown()
        for worker in started:
            worker.process.kill()  # again: one that was just starting was not among them
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    pipe.close()
