// Runs loads of jobs on pg-boss, woken by NOTIFY: `node pg-boss.js postgres://…`.

import { createRequire } from 'node:module';
import { PgBoss } from 'pg-boss';
import { serve } from './load.js';

const { version } = createRequire(import.meta.url)('pg-boss/package.json');
const WORKERS = 2;
const BATCH = 16;
const CONNECTIONS = 36;

await serve(`pg-boss ${version} with NOTIFY`, async (url, started, done) => {
  const boss = new PgBoss({ connectionString: url, max: CONNECTIONS, useListenNotify: true });
  boss.on('error', (error) => console.error(error));
  await boss.start();
  await boss.createQueue('load', { notify: true });
  // It completes a batch once the handler has returned, and tells nobody; so what is counted here is a flight early.
  const options = {
    localConcurrency: WORKERS,
    batchSize: BATCH,
    burstWhenBatchFull: true,
    pollingIntervalSeconds: 0.5,
    notifyPollingIntervalSeconds: 0.5,
  };
  await boss.work('load', options, async (jobs) => {
    for (const job of jobs) {
      started(job.data);
      done(job.data);
    }
  });
  return (data) => boss.send('load', data);
});
