// What the job queues of npm have in common: a load of jobs is read as a line of JSON, enqueued as it says, and what
// became of it is written as a line of JSON. The load client says what the words mean: `JobLoad` and `JobsDone`.

import { createInterface } from 'node:readline';

/** Counts one load while it runs. */
class Count {
  constructor(load) {
    this.load = load;
    this.enqueued = 0;
    this.ran = 0;
    this.completed = 0;
    this.finished = 0;
    this.startsMicros = [];
    this.begin = performance.now() + load.warmUpMs;
    this.end = this.begin + load.durationMs;
    this.unfinished = Array(load.clients).fill(0);
    this.waiting = Array(load.clients).fill(null);
    this.allFinished = null;
  }

  /** One client: a job when the last one is acknowledged and few enough are unfinished. */
  async client(number, enqueue) {
    while (performance.now() < this.end) {
      if (this.unfinished[number] >= this.load.outstanding) {
        await new Promise((resolve) => (this.waiting[number] = resolve));
        continue;
      }
      this.unfinished[number] += 1;
      await enqueue({ client: number, at: performance.now() });
      this.enqueued += 1;
      if (this.load.pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, this.load.pauseMs));
    }
  }

  started({ at }) {
    this.ran += 1;
    if (at >= this.begin && at < this.end) this.startsMicros.push(Math.round((performance.now() - at) * 1000));
  }

  done({ client }) {
    const now = performance.now();
    this.finished += 1;
    if (now >= this.begin && now < this.end) this.completed += 1;
    this.unfinished[client] -= 1;
    this.waiting[client]?.();
    this.waiting[client] = null;
    if (this.allFinished && this.finished >= this.enqueued) this.allFinished();
  }

  async run(enqueue) {
    const clients = Array.from({ length: this.load.clients }, (_, number) => this.client(number, enqueue));
    await Promise.all(clients);
    if (this.finished < this.enqueued) await new Promise((resolve) => (this.allFinished = resolve));
    const { enqueued, ran, completed, startsMicros } = this;
    return { enqueued, ran, completed, startsMicros };
  }
}

/**
 * Serves loads until the input ends. `open` makes the queue from its server's URL and from two functions that it calls
 * with a job's data, when the job's work begins and when the job is completed; it answers what enqueues a job.
 */
export async function serve(about, open) {
  const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
  let count = null;
  const enqueue = await open(process.argv[2], (data) => count.started(data), (data) => count.done(data));
  say({ about: `${about} on node ${process.versions.node}` });
  for await (const line of createInterface({ input: process.stdin })) {
    count = new Count(JSON.parse(line));
    say(await count.run(enqueue));
  }
  process.exit(0);
}
