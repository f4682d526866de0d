// A screen that stands open shows what happens, and comes back by itself whatever befalls its stream.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { offers, open, says, until, visitor } from './harness/browser.mjs'
import { startProxy } from './harness/proxy.mjs'
import { startServer } from './harness/server.mjs'

const LIMIT = { timeout: 120_000 }
const CONFIG = '[projects.web]\n[projects.shop]\n'

/** A row of the screen of all projects. */
const row = (project) => `#p-${project}`
const isLive = (page) => says(page, '#live', /^live$/)

test('a deployment is seen to start, to go on and to end', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const page = await open(t, server)
  await isLive(page)
  await says(page, row('web'), 'free')

  const run = await server.run('web', { actor: 'alice', ref: 'main', message: 'Faster search' })
  await says(page, row('web'), /alice.*Faster search/)
  assert.match(await page.title(), /^1 running/)
  await run.progress(42, 'Uploading')
  await until(page, () => document.querySelector('#p-web progress')?.value === 42)
  await run.succeed()
  await says(page, row('web'), 'free')
  await until(page, () => document.querySelectorAll('#p-web .dots a').length === 1)
})

test('a project is seen to come, and to be forgotten', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const page = await open(t, server)
  await isLive(page)

  await (await server.run('new')).succeed()
  await says(page, row('new'), 'free')
  await server.ask('DELETE', '/v1/projects/new?reason=mistyped')
  await until(page, () => document.querySelector('#p-new') === null)
  await says(page, row('web'), 'free')
})

test('after the server was killed and started again, the page comes back and shows what changed', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const run = await server.run('web', { actor: 'alice' })
  const page = await open(t, server)
  await isLive(page)
  await page.evaluate(() => (window.sameAsBefore = true))

  await server.kill()
  await says(page, '#live', 'reconnecting')
  await server.start()
  await run.succeed()
  await server.run('shop', { actor: 'jon' })
  await isLive(page)
  await says(page, row('web'), 'free')
  await says(page, row('shop'), 'jon')
  assert.equal(await page.evaluate(() => window.sameAsBefore), true, 'the page was not loaded anew')
})

test('a stream that falls silent is noticed, and the page comes back', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const proxy = await startProxy(t, server)
  const page = await open(t, proxy)
  await isLive(page)

  assert.equal(proxy.mute(/^GET .*\r\naccept: text\/event-stream/is), 1)
  await server.run('web', { actor: 'alice' })
  await says(page, '#live', 'reconnecting')
  await says(page, row('web'), 'alice')
  await isLive(page)
})

test('the screen of a project shows who comes, who waits and how it ended', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const page = await open(t, server, '/projects/web')
  await isLive(page)
  const run = await server.run('web', { actor: 'alice', message: 'Faster search' })
  await says(page, '#slot', /running.*alice/s)
  await server.wait('web', { executor: 'client', claim: true, actor: 'jon' })
  await says(page, '#line', 'jon')
  await run.fail('the disk is full')
  await says(page, '#history', /failed.*alice/s)
  await says(page, '#slot', /called up.*jon/s)
})

test('the screen of a deployment shows its phases and output as they come, and its end', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const run = await server.run('web', { actor: 'alice' })
  const page = await open(t, server, run.page)
  await isLive(page)
  await run.phase('build')
  await run.log('build', Array.from({ length: 40 }, (_, index) => `line ${index}`))
  await says(page, '#log', 'line 39')
  await says(page, '#d-times', 'build')
  // Who follows sees the end of it.
  await until(page, () => {
    const log = document.getElementById('log')
    return log.scrollTop + log.clientHeight > log.scrollHeight - 30
  })
  await run.log('build', 'cannot write', 'stderr')
  await says(page, '#log .err', 'cannot write')
  await run.phase('build', 'failed')
  await run.fail('the disk is full', 'build')
  await says(page, '#d-head', /failed in build.*disk is full/s)
  assert.match(await page.title(), /failed in build/)
  assert.equal(await offers(page, 'Cancel…'), false)
})

test('the output of a deployment comes again after the server was killed, and none of it twice', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const run = await server.run('web', { actor: 'alice' })
  await run.phase('build')
  await run.log('build', ['first'])
  const page = await open(t, server, run.page)
  await isLive(page)
  await server.kill()
  await says(page, '#live', 'reconnecting')
  await server.start()
  await run.log('build', ['second'])
  await says(page, '#log', 'second')
  const lines = await page.$$eval('#log .l', (all) => all.map((one) => one.innerText))
  assert.deepEqual(['first', 'second'].map((word) => lines.filter((line) => line.includes(word)).length), [1, 1], lines.join('\n'))
})

test('two tabs are both live', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const { tab } = await visitor(t, server)
  const tabs = [await tab(), await tab()]
  await Promise.all(tabs.map(isLive))

  await server.run('web', { actor: 'alice' })
  await Promise.all(tabs.map((page) => says(page, row('web'), 'alice')))
})

test('of eight tabs each is live when it is looked at', LIMIT, async (t) => {
  const server = await startServer(t, { config: CONFIG })
  const { tab } = await visitor(t, server)
  const tabs = []
  for (let count = 0; count < 8; count++) {
    const page = await tab()
    await says(page, row('web'), 'free')
    await isLive(page)
    tabs.push(page)
  }

  const run = await server.run('web', { actor: 'alice' })
  await says(tabs[7], row('web'), 'alice')
  await run.succeed()
  for (const page of tabs) {
    await page.bringToFront()
    await says(page, row('web'), 'free')
    await isLive(page)
    // And not only what it says of itself.
    const actor = `actor${tabs.indexOf(page)}`
    const next = await server.run('web', { actor })
    await says(page, row('web'), actor)
    await next.succeed()
  }
})
