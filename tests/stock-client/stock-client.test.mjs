// The public checkly CLI's REST class, which none of us wrote, deploys through a real Singletrack server.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  ConflictError, ProjectDeployCancelledError, ProjectDeployFailedError, resources, start,
} from './harness.mjs'

// A test ends by what it waits for, never by this limit, unless something hangs.
const LIMIT = { timeout: 60_000 }

// A phase that notes any other run beside it, says who it is, stands at the gate, and gives its name back. The lock is
// the kernel's, so it goes with the process that holds it, however that ends.
const GATED = `
exec 9> {dir}/slot.lock
flock -n 9 || { echo "$INPUT_NAME" >> {dir}/overlaps; exit 1; }
echo "$INPUT_NAME" >> {dir}/started
echo "$INPUT_NAME" > {dir}/gate.here
read -r go < {dir}/gate.go
echo "::singletrack output name=$INPUT_NAME::"
`

test('deploy() succeeds, and hears of the progress while it runs', LIMIT, async (t) => {
  const { client, gate } = await start(t, { web: `echo '::singletrack progress=40 message=Uploading::'\n${GATED}` })
  const door = gate('gate')
  const heard = []
  const fortyPercent = deferred()
  const onProgress = (progress) => {
    heard.push(progress)
    if (progress === 40) {
      fortyPercent.resolve()
    }
  }

  const deploy = client().deploy(resources('web', { inputs: { name: 'first' }, commit: '3f2a' }), { onProgress })
  // It stands at the gate, so this can only have been told while it ran.
  await Promise.race([fortyPercent.promise, deploy])
  door.open()

  assert.equal((await deploy).data.outputs.name, 'first')
  assert.deepEqual(heard, heard.slice().sort((a, b) => a - b), 'progress never falls')
})

test('deploy() fails with the server\'s message', LIMIT, async (t) => {
  const { client, get } = await start(t, { web: 'echo "no such table" >&2\nexit 3\n' })

  const failure = await rejection(client().deploy(resources('web')))

  assert.ok(failure instanceof ProjectDeployFailedError, String(failure))
  const { deployments: [deployment] } = await get('/v1/projects/web/deployments?limit=1')
  assert.equal(deployment.status, 'FAILED')
  assert.equal(deployment.error.code, 'PHASE_FAILED')
  assert.equal(failure.message, deployment.error.message)
})

test('a dry run answers the plan and starts nothing', LIMIT, async (t) => {
  const { client, get, exists } = await start(t, { web: 'echo ran > {dir}/ran\n' })

  const { data: plan } = await client().deploy(resources('web'), { dryRun: true })

  assert.equal(plan.dryRun, true)
  assert.deepEqual(plan.phases.map((phase) => phase.name), ['work'])
  assert.deepEqual((await get('/v1/projects/web/deployments')).deployments, [])
  assert.equal(exists('ran'), false)
})

test('deploy() waits behind a running deployment', LIMIT, async (t) => {
  const { client, gate, lines, exists } = await start(t, { web: GATED })
  const door = gate('gate')

  const first = client().deploy(resources('web', { inputs: { name: 'first' } }))
  assert.equal(await door.arrival(), 'first')
  const waits = deferred()
  const second = client().deploy(resources('web', { inputs: { name: 'second' } }), { onStatus: waits.resolve })
  assert.equal(await waits.promise, 'Waiting for an in-progress deployment to finish...')
  assert.deepEqual(lines('started'), ['first'])

  door.open()
  assert.equal((await first).data.outputs.name, 'first')
  assert.equal(await door.arrival(), 'second')
  door.open()
  assert.equal((await second).data.outputs.name, 'second')
  assert.equal(exists('overlaps'), false)
})

test('deploy() with cancelInProgress takes over', LIMIT, async (t) => {
  const { client, gate, get, exists } = await start(t, { web: GATED })
  const door = gate('gate')

  const first = rejection(client().deploy(resources('web', { inputs: { name: 'first' } })))
  assert.equal(await door.arrival(), 'first')
  const second = client().deploy(resources('web', { inputs: { name: 'second' } }), { cancelInProgress: true })
  const cancelled = await first
  assert.ok(cancelled instanceof ProjectDeployCancelledError, String(cancelled))

  assert.equal(await door.arrival(), 'second')
  door.open()
  assert.equal((await second).data.outputs.name, 'second')
  const { deployments } = await get('/v1/projects/web/deployments')
  assert.deepEqual(deployments.map((deployment) => deployment.status), ['SUCCEEDED', 'CANCELLED'])
  assert.equal(exists('overlaps'), false)
})

test('a refusal that waiting does not help is no wait', LIMIT, async (t) => {
  const { client } = await start(t, { web: 'true\n' })
  await client().deploy(resources('web', { order: 5 }))

  const refusal = await rejection(client().deploy(resources('web', { order: 4 })))

  assert.ok(refusal instanceof ConflictError, String(refusal))
  assert.equal(refusal.data.errorCode, 'OUTDATED')
  assert.equal(refusal.data.deploymentId, undefined)
})

for (const count of [2, 20]) {
  test(`${count} at once all succeed, one after the other`, LIMIT, async (t) => {
    const { client, gate, lines, exists } = await start(t, { web: GATED })
    const door = gate('gate')
    const names = Array.from({ length: count }, (_, index) => `client${index}`)

    // Nobody passes the gate before all the others know that they have to wait.
    const waiting = names.map(() => deferred())
    const deploys = names.map((name, index) =>
      client().deploy(resources('web', { inputs: { name } }), { onStatus: waiting[index].resolve }))
    const holder = await door.arrival()
    await Promise.all(names.map((name, index) => name === holder ? undefined : waiting[index].promise))
    door.open(count)

    const results = await Promise.all(deploys)
    assert.deepEqual(results.map((result) => result.data.outputs.name), names)
    assert.deepEqual(lines('started').sort(), names.slice().sort(), 'each ran exactly once')
    assert.equal(exists('overlaps'), false)
  })

  test(`${count} at once with cancelInProgress: the last wins, the others are cancelled`, LIMIT, async (t) => {
    const { client, gate, get, exists } = await start(t, { web: GATED })
    const door = gate('gate')
    const names = Array.from({ length: count }, (_, index) => `client${index}`)

    // With the gate shut nobody can succeed. Who is in cancels nobody any more, so all but the last in are cancelled.
    const allButOne = countdown(count - 1)
    const deploys = names.map((name) => {
      const deploy = client().deploy(resources('web', { inputs: { name } }), { cancelInProgress: true })
      deploy.catch(allButOne.tick)
      return deploy
    })
    await allButOne.promise
    door.open()

    const ends = await Promise.allSettled(deploys)
    const winners = ends.filter((end) => end.status === 'fulfilled')
    const losers = ends.filter((end) => end.status === 'rejected')
    for (const { reason } of losers) {
      assert.ok(reason instanceof ProjectDeployCancelledError, String(reason))
    }
    assert.equal(winners.length, 1)
    const { deployments } = await get('/v1/projects/web/deployments?limit=100')
    assert.deepEqual(deployments.map((deployment) => deployment.status),
      ['SUCCEEDED', ...losers.map(() => 'CANCELLED')])
    assert.equal(exists('overlaps'), false)
  })
}

/** What a promise was rejected with. */
async function rejection(promise) {
  return promise.then(
    (value) => assert.fail(`it was to be rejected, but gave ${JSON.stringify(value)}`),
    (reason) => reason,
  )
}

function deferred() {
  const it = {}
  it.promise = new Promise((resolve) => (it.resolve = resolve))
  return it
}

function countdown(count) {
  const { promise, resolve } = deferred()
  return { promise, tick: () => --count === 0 && resolve() }
}
