// A company on a Tuesday, for the screenshots and for tests of all that can be shown at once: ten projects with two weeks
// behind them, one of them held, one with a worker that fell silent, one with a line of three, one that failed.

import fs from 'node:fs'
import path from 'node:path'
import { folder, startServer } from './server.mjs'

/** When all of it is looked at. The clock stands still then, so that screenshots differ only where the page does. */
export const NOW = Date.UTC(2026, 2, 10, 14, 3, 20)

const MINUTE = 60
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

const CONFIG = `
[limits]
# So that the worker that is silent here, and the clients that wait without polls, stay while they are looked at.
lease = "5m"
attendance = "30m"

[projects.billing]
run_by = "agents"
[projects.web]
run_by = "agents"
preempt = { times = 2 }
[[projects.web.freeze]]
from = "12-24"
to = "01-02 08:00"
reason = "nobody is here over Christmas"
[projects.search-api]
[projects.shop]
[projects.docs]
[projects.mobile-config]
[projects.checkout]
run_by = "agents"
[projects.identity]
[projects.media-resizer]
line = "latest"
[projects.infra-dns]
`

const PEOPLE = ['alice', 'jon', 'mara', 'lena', 'tomasz', 'octavia']
const MESSAGES = {
  billing: ['Raise the invoice limit', 'Round VAT per line', 'Send reminders on workdays only', 'Export bookings as CSV'],
  web: ['Faster search on the start page', 'Fix the cart badge', 'Bump the base image', 'New footer', 'Lazy-load the reviews',
    'Say what is out of stock', 'Cookie banner: one click less', 'Serve AVIF where it is understood'],
  'search-api': ['Index synonyms nightly', 'Fewer shards', 'Typo tolerance for short words'],
  shop: ['Gift cards', 'Returns within 30 days', 'Show delivery dates'],
  docs: ['Describe webhooks', 'Fix a broken link', 'Examples for Kotlin'],
  'mobile-config': ['Raise the minimum version to 8.2', 'Turn on the new onboarding for 10 %', 'Turn off the old login'],
  checkout: ['New checkout', 'Pay by invoice', 'Retry the payment once'],
  identity: ['Passkeys', 'Log out everywhere', 'Rotate the signing keys'],
  'media-resizer': ['Keep the colour profile', 'Use four threads'],
  'infra-dns': ['Add mail.eu.example', 'Lower the TTL before the move'],
}

/** The same numbers each time. */
function dice(seed) {
  return () => {
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed / 2147483648
  }
}

/** Starts a server and lets two weeks pass on it, by a clock that the scene moves. */
export async function startScene(t) {
  const dir = folder(t)
  const clock = path.join(dir, 'clock')
  let ago = 14 * DAY + 3 * HOUR
  const at = (seconds) => {
    ago = seconds
    // At once or not at all: the server reads it each time it looks at its clock.
    fs.writeFileSync(`${clock}.new`, new Date(NOW - ago * 1000).toISOString().replace('T', ' ').slice(0, 19) + '\n')
    fs.renameSync(`${clock}.new`, clock)
  }
  const pass = (seconds) => at(ago - seconds)
  at(ago)
  const server = await startServer(t, {
    dir,
    config: CONFIG,
    env: {
      LD_PRELOAD: libfaketime(),
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: '1',
      TZ: 'UTC',
      // Only the time of day is moved: what is counted from the start of the machine is real.
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
  })
  const roll = dice(23)
  const pick = (list) => list[Math.floor(roll() * list.length)]
  const commit = () => [...Array(40)].map(() => '0123456789abcdef'[Math.floor(roll() * 16)]).join('')
  const build = { web: 1788, billing: 183, checkout: 811 }
  const source = (project, rest = {}) => ({
    ref: 'main', commit: commit(), actor: pick(PEOPLE), message: pick(MESSAGES[project]),
    url: `https://ci.example/acme/${project}/runs/${4100 + Math.floor(roll() * 900)}`,
    ...(build[project] ? { order: ++build[project] } : {}),
    ...rest,
  })
  const byAgent = { billing: 'vm-7', web: 'vm-2', checkout: 'vm-2' }
  const start = async (project, rest) => {
    const asked = source(project, rest)
    if (!byAgent[project]) {
      return server.run(project, { pipeline: 'run', ...asked }, 300)
    }
    await server.queue(project, { inputs: { image: `registry.example/${project}:${asked.commit.slice(0, 7)}` }, ...asked })
    return server.claim(byAgent[project], { [project]: ['deploy'] })
  }
  const phases = async (lease, times) => {
    for (const [name, seconds] of times) {
      await lease.phase(name)
      pass(seconds)
      await lease.phase(name, 'succeeded')
    }
  }
  const deploy = async (project, rest) => {
    const lease = await start(project, rest)
    const slow = 0.7 + 0.6 * roll()
    if (byAgent[project]) {
      await phases(lease, [['upload', 4], ['migrate', 190 * slow], ['switch', 3], ['verify', 40 * slow]])
      await lease.output('url', `https://${project}.example`)
    } else {
      pass(70 * slow)
    }
    if (!rest && roll() < 0.08) {
      return lease.fail(byAgent[project] ? 'https://health.example answered 503 for 60 s' : './deploy.sh ended with 1', byAgent[project] ? 'verify' : null)
    }
    await lease.succeed()
  }

  // Two weeks: web four times a day, each time with somebody who waits; the others now and then.
  for (let day = 14; day >= 1; day--) {
    for (const [index, hours] of [4, 3, 2, 1].entries()) {
      at(day * DAY - 12 * HOUR + hours * HOUR + roll() * HOUR / 2)
      const first = await start('web')
      await first.phase('upload')
      pass(4)
      await first.phase('upload', 'succeeded')
      await first.phase('migrate')
      pass(30 + 60 * roll())
      if (index % 2 === 0) {
        await server.queue('web', source('web'))
      }
      pass(100 + 90 * roll())
      await first.phase('migrate', 'succeeded')
      await phases(first, [['switch', 3], ['verify', 30 + 20 * roll()]])
      await first.output('url', 'https://web.example')
      await (roll() < 0.05 ? first.fail('https://web.example/healthz answered 503 for 60 s', 'verify') : first.succeed())
      if (index % 2 === 0) {
        const second = await server.claim('vm-2', { web: ['deploy'] })
        await phases(second, [['upload', 4], ['migrate', 150 + 100 * roll()], ['switch', 3], ['verify', 35]])
        await second.succeed()
      }
    }
    const others = Object.keys(MESSAGES).filter((project) => project !== 'web')
    for (const project of others.filter((_, index) => (index + day) % 2 === 0)) {
      await deploy(project)
    }
  }

  // This morning.
  at(6 * HOUR)
  for (const project of ['shop', 'identity', 'billing', 'search-api']) {
    await deploy(project, {})
  }
  at(3 * HOUR)
  await deploy('checkout', { message: 'Pay by invoice', actor: 'alice' })
  await deploy('mobile-config', {})
  at(95 * MINUTE)
  const failed = await failure(start, pass)
  at(52 * MINUTE)
  await deploy('infra-dns', {})
  at(38 * MINUTE)
  await deploy('web', { message: 'Serve AVIF where it is understood', actor: 'jon' })
  at(12 * MINUTE)
  await deploy('docs', { actor: 'schedule', message: 'Describe webhooks' })
  at(11 * MINUTE)
  await server.ask('POST', '/v1/projects/shop/pause', {
    reason: 'the warehouse counts its stock', actor: 'lena',
    until: new Date(NOW + 4 * HOUR * 1000).toISOString(),
  })
  at(8 * MINUTE)
  await server.wait('shop', source('shop', { executor: "client", claim: true, actor: 'tomasz', message: 'Gift cards' }))
  at(3 * MINUTE + 45)
  const silent = await start('billing', { actor: 'mara', message: 'Raise the invoice limit' })
  await silent.phase('upload')
  pass(5)
  await silent.phase('upload', 'succeeded')
  await silent.phase('migrate')
  await silent.log('migrate', ['applying 0041_invoice_limit.sql'])
  pass(20)
  await silent.heartbeat()
  await server.queue('billing', source('billing', { actor: 'octavia', message: 'Round VAT per line' }))

  at(3 * MINUTE + 12)
  const running = await start('web', { actor: 'alice', message: 'Faster search on the start page' })
  await running.phase('upload')
  await running.log('upload', ['12.4 MiB in 3 s'])
  pass(4)
  await running.phase('upload', 'succeeded')
  await running.phase('migrate')
  await running.log('migrate', ['3 migrations', 'applying 0117_search_terms.sql', 'applying 0118_search_index.sql'])
  pass(28)
  await server.wait('web', source('web', { actor: 'jon', message: 'Fix the cart badge' }))
  pass(40)
  await server.queue('web', source('web', { actor: 'mara', message: 'Bump the base image' }))
  pass(15)
  await server.queue('web', source('web', { actor: 'schedule', ref: 'preview-88', message: 'Tear down preview 88' }))
  await running.progress(42, 'row 1,260,000 of 3,000,000')
  at(48)
  const quick = await start('search-api', { actor: 'jon', ref: 'release/24', message: 'Typo tolerance for short words' })
  await quick.progress(78, 'replica 7 of 9')
  at(0)
  // Those that live show it.
  await running.heartbeat()
  await quick.heartbeat()
  return { server, failed, silent, running, quick }
}

/** The deployment that failed in its last phase and was rolled back. */
async function failure(start, pass) {
  const lease = await start('checkout', { actor: 'mara', message: 'New checkout' })
  const step = async (name, seconds, lines, stream) => {
    pass(seconds)
    await lease.log(name, lines, stream)
  }
  await lease.phase('upload')
  await step('upload', 3, ['artifact sha256:77ab90c1, 12.4 MiB', 'unpacked 1,318 files'])
  await lease.phase('upload', 'succeeded', '12.4 MiB in 3 s')
  await lease.phase('migrate')
  await step('migrate', 1, ['3 migrations to apply', '0201_orders_channel.sql'])
  await step('migrate', 12, ['  12.1 s', '0202_backfill_channel.sql'])
  await step('migrate', 141, ['  4,180,332 rows in 141.0 s', '0203_orders_channel_not_null.sql', '  0.4 s'])
  await lease.phase('migrate', 'succeeded', '3 migrations')
  await lease.phase('switch')
  await step('switch', 2, ['current → releases/5d1e770', 'reloaded 4 workers'])
  await lease.phase('switch', 'succeeded')
  await lease.phase('verify')
  for (let turn = 1; turn <= 12; turn++) {
    await step('verify', turn === 1 ? 0.1 : 5, ['GET http://127.0.0.1:8080/healthz → 503'])
    if (turn % 4 === 1) {
      await step('verify', 0.1, ['checkout: cannot reach payments (connection refused)'], 'stderr')
    }
  }
  await step('verify', 1, ['checkout: giving up after 12 tries'], 'stderr')
  await lease.phase('verify', 'failed', '503 Service Unavailable, 12 tries')
  await lease.phase('switch', 'rollingBack')
  await step('switch', 2, ['current → releases/9c1e04a'])
  await lease.phase('switch', 'rolledBack')
  await lease.phase('migrate', 'rollingBack')
  await step('migrate', 20, ['0203, 0202, 0201 taken back'])
  await lease.phase('migrate', 'rolledBack')
  await lease.fail('http://127.0.0.1:8080/healthz answered 503 for 60 s', 'verify', 'VERIFY_FAILED')
  return lease
}

function libfaketime() {
  const found = fs.readdirSync('/usr/lib').map((name) => `/usr/lib/${name}/faketime/libfaketimeMT.so.1`).find(fs.existsSync)
  if (!found) {
    throw new Error('libfaketime is missing: run scripts/prerequisites')
  }
  return found
}
