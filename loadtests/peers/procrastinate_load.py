"""Runs loads of jobs on procrastinate: `python procrastinate_load.py postgres://…`.

A load of jobs is read as a line of JSON, enqueued as it says, and what became of it is written as a line of JSON. The load
client says what the words mean: `JobLoad` and `JobsDone`.
"""

import asyncio
import importlib.metadata
import json
import logging
import platform
import sys
import time

import procrastinate

CONCURRENCY = 16
CONNECTIONS = 36

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=sys.argv[1], min_size=CONNECTIONS, max_size=CONNECTIONS
    )
)


class Count:
    """Counts one load while it runs."""

    def __init__(self, load):
        self.load = load
        self.enqueued = self.ran = self.completed = self.finished = 0
        self.starts_micros = []
        self.begin = time.monotonic() + load["warmUpMs"] / 1e3
        self.end = self.begin + load["durationMs"] / 1e3
        self.room = [asyncio.Semaphore(load["outstanding"]) for _ in range(load["clients"])]
        self.is_over = False
        self.all_finished = asyncio.Event()

    async def client(self, number):
        """One client: a job when the last one is acknowledged and few enough are unfinished."""
        while time.monotonic() < self.end:
            await self.room[number].acquire()
            await nothing.defer_async(client=number, at=time.monotonic())
            self.enqueued += 1
            if self.load["pauseMs"] > 0:
                await asyncio.sleep(self.load["pauseMs"] / 1e3)

    def started(self, at):
        self.ran += 1
        if self.begin <= at < self.end:
            self.starts_micros.append(round((time.monotonic() - at) * 1e6))

    def done(self, client):
        self.finished += 1
        if self.begin <= time.monotonic() < self.end:
            self.completed += 1
        self.room[client].release()
        self.check()

    def check(self):
        if self.is_over and self.finished >= self.enqueued:
            self.all_finished.set()

    async def run(self):
        await asyncio.gather(*(self.client(number) for number in range(self.load["clients"])))
        self.is_over = True
        self.check()
        await self.all_finished.wait()
        return {
            "enqueued": self.enqueued,
            "ran": self.ran,
            "completed": self.completed,
            "startsMicros": self.starts_micros,
        }


count = None


# It completes a job once its task has returned, and tells nobody; so what is counted here is a flight early.
@app.task
async def nothing(client, at):
    count.started(at)
    count.done(client)


def say(message):
    print(json.dumps(message), flush=True)


async def main():
    global count
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False, delete_jobs="always")
        )
        version = importlib.metadata.version("procrastinate")
        say({"about": f"procrastinate {version} on python {platform.python_version()}"})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            count = Count(json.loads(line))
            say(await count.run())
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


asyncio.run(main())
