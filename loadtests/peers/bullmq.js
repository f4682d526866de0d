// Runs loads of jobs on BullMQ: `node bullmq.js redis://127.0.0.1:6379`.

import { createRequire } from 'node:module';
import { Queue, Worker } from 'bullmq';
import Redis from 'ioredis';
import { serve } from './load.js';

const { version } = createRequire(import.meta.url)('bullmq/package.json');
const CONCURRENCY = 16;

await serve(`BullMQ ${version}`, async (url, started, done) => {
  // Clients and worker have connections of their own, as two programs would; a worker's must try for ever.
  const connect = () => new Redis(url, { maxRetriesPerRequest: null });
  const queue = new Queue('load', { connection: connect(), defaultJobOptions: { removeOnComplete: true } });
  const worker = new Worker('load', async (job) => started(job.data), { connection: connect(), concurrency: CONCURRENCY });
  worker.on('completed', (job) => done(job.data));
  worker.on('error', (error) => console.error(error));
  await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()]);
  return (data) => queue.add('nothing', data);
});
