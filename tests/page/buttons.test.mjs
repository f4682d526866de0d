// What may be done by the page, done by it, with script and without: a form says what will happen and asks, and does it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { follow, offers, open, press, says, until } from './harness/browser.mjs'
import { startServer, token } from './harness/server.mjs'

const LIMIT = { timeout: 120_000 }

/** Presses what leads to a form, fills it in, and sends it. Answers the page that comes then. */
async function act(page, link, fields, button) {
  await follow(page, () => press(page, link))
  for (const [name, value] of Object.entries(fields)) {
    value === true ? await page.click(`form [name="${name}"]`) : await page.type(`form [name="${name}"]`, value)
  }
  const answer = await follow(page, () => press(page, button))
  assert.equal(answer.status(), 200, await page.$eval('main', (main) => main.innerText))
}

for (const script of [true, false]) {
  const how = script ? 'with script' : 'without script'

  test(`a project is paused and resumed, ${how}`, LIMIT, async (t) => {
    const server = await startServer(t, { config: '[projects.web]\n' })
    const page = await open(t, server, '/projects/web', { script })
    await act(page, 'Pause…', { reason: 'the database moves' }, 'Pause')
    assert.equal(new URL(page.url()).pathname, '/projects/web')
    await says(page, '#slot', 'the database moves')
    assert.equal((await server.get('/v1/projects/web')).hold.reason, 'the database moves')

    await act(page, 'Resume…', {}, 'Resume')
    await until(page, () => !document.querySelector('#slot').innerText.includes('the database moves'))
    assert.equal((await server.get('/v1/projects/web')).hold, null)
  })

  test(`a slot is released, ${how}`, LIMIT, async (t) => {
    const server = await startServer(t, { config: '[projects.web]\n' })
    const run = await server.run('web', { actor: 'alice' })
    const page = await open(t, server, '/projects/web', { script })
    await act(page, 'Release the slot…', { reason: 'its machine is gone', even_if_alive: true }, 'Release the slot')
    await says(page, '#slot', 'Nothing runs')
    assert.equal((await server.deployment('web', run.id)).status, 'FAILED')
  })

  test(`a project is rolled back, ${how}`, LIMIT, async (t) => {
    const server = await startServer(t, { config: '[projects.web]\n[[projects.web.pipelines.deploy.phases]]\nname = "switch"\nrun = "true"\n' })
    for (const commit of ['aaaa111', 'bbbb222']) {
      const { id } = await server.queue('web', { commit })
      await server.get(`/v1/projects/web/deployments/${id}/completion?maxWaitSeconds=30`)
    }
    const page = await open(t, server, '/projects/web', { script })
    await act(page, 'Roll back…', { reason: 'it is slow' }, 'Roll back')
    const { deployments: [last] } = await server.get('/v1/projects/web/deployments?limit=1')
    assert.equal(last.commit, 'aaaa111')
    assert.equal(last.retryOfDeployment.number, 1)
  })

  test(`a deployment is cancelled, ${how}`, LIMIT, async (t) => {
    const server = await startServer(t, { config: '[projects.web]\n' })
    const run = await server.run('web', { actor: 'alice' })
    const page = await open(t, server, run.page, { script })
    await act(page, 'Cancel…', { reason: 'the wrong branch' }, 'Cancel the deployment')
    assert.equal((await run.heartbeat()).cancelRequested, true)
    await run.stopAsAsked()
    await page.goto(server.url + run.page)
    await says(page, 'main', 'the wrong branch')
    assert.equal((await server.deployment('web', run.id)).status, 'CANCELLED')
  })

  test(`all projects are held and let go again, ${how}`, LIMIT, async (t) => {
    const server = await startServer(t, { config: '[projects.web]\n[projects.shop]\n' })
    const page = await open(t, server, '/', { script })
    await act(page, 'Hold everything…', { reason: 'the data centre burns' }, 'Hold everything')
    for (const project of ['web', 'shop']) {
      assert.match((await server.get(`/v1/projects/${project}`)).hold.reason, /the data centre burns/)
    }
    await page.goto(server.url)
    await says(page, '#p-shop', 'the data centre burns')

    await follow(page, () => press(page, 'Everything is held…'))
    await follow(page, () => press(page, 'Let 2 projects go'))
    assert.equal((await server.get('/v1/projects/web')).hold, null)
  })
}

test('who may only read is offered nothing, and is refused', LIMIT, async (t) => {
  const [admin, reader] = [token('admin'), token('reader', ['read'])]
  const server = await startServer(t, { config: `${admin.lines}${reader.lines}[projects.web]\n` })
  server.token = admin.secret
  const run = await server.run('web', { actor: 'alice' })
  const page = await open(t, server, '/projects/web')
  await page.type('#token', reader.secret)
  await follow(page, () => page.keyboard.press('Enter'))
  for (const [route, texts] of [
    ['/', ['Hold everything…']],
    ['/projects/web', ['Pause…', 'Resume…', 'Roll back…', 'Release the slot…', 'Set the mark…']],
    [run.page, ['Cancel…', 'Deploy again…']],
  ]) {
    await page.goto(server.url + route)
    for (const text of texts) {
      assert.equal(await offers(page, text), false, `${route} offers ${text}`)
    }
  }
  for (const route of ['/projects/web/pause', '/projects/web/release', `${run.page}/cancel`, '/hold']) {
    const answer = await page.goto(server.url + route)
    assert.equal(answer.status(), 403, route)
  }
  assert.equal((await server.deployment('web', run.id)).status, 'RUNNING')
})
