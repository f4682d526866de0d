// What others send stays text: in every field that is shown, on every screen.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PHONE, assertNoSidewaysScroll, open, says, until } from './harness/browser.mjs'
import { GIANT, HOSTILE } from './harness/hostile.mjs'
import { startServer } from './harness/server.mjs'

const LIMIT = { timeout: 240_000 }
/** What turns the direction of text, or is no character at all. */
const INVISIBLE = '[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u200e\\u200f\\u061c\\u202a-\\u202e\\u2066-\\u2069]'

/** The screens that show a deployment. */
const screens = (lease) => ['/', `/projects/${lease.project}`, lease.page]

/** The fields of a submit with this text in each that takes it; what a field does not take is refused, and left out. */
async function submit(server, project, text) {
  const fields = { ref: text, commit: text, message: text, actor: text, url: `https://example.com/${text}` }
  const taken = {}
  for (const [name, value] of Object.entries(fields)) {
    const { status } = await server.send('POST', `/v1/projects/${project}/deployments?dryRun=true`, { executor: 'client', claim: true, [name]: value })
    // The project has no such pipeline, which is asked last.
    assert.ok(status === 404 || status === 400, `${name}: ${status}`)
    if (status === 404) {
      taken[name] = value
    }
  }
  return taken
}

/** Sends the text in everything that a worker reports; a report that is refused stays out. */
async function report(lease, text) {
  const reports = [
    { type: 'phase', name: text, state: 'started', message: text },
    { type: 'phase', name: 'upload', state: 'started', message: text },
    { type: 'progress', progress: 40, message: text },
    { type: 'output', name: text, value: text },
    { type: 'output', name: 'url', value: `https://example.com/${text}` },
    { type: 'log', stream: 'stdout', phase: 'upload', lines: [text, `before ${text} after`] },
    { type: 'log', stream: 'stderr', phase: text, lines: [text] },
  ]
  for (const one of reports) {
    const { status } = await lease.server.send('POST', `${lease.route}/reports`, { first: lease.next, reports: [one] }, lease.headers)
    assert.ok(status === 200 || status === 400, `${JSON.stringify(one)}: ${status}`)
    lease.next += status === 200 ? 1 : 0
  }
}

/** That a screen holds nothing but what our templates make. */
async function assertOnlyText(page, what) {
  const found = await page.evaluate((invisible) => {
    const wrong = []
    const say = (text) => wrong.push(text)
    for (const one of document.querySelectorAll('script, style, iframe, object, embed, img, video, audio, base, math, marquee, template, meta, link')) {
      const isOurs = one.matches('head > script[src^="/assets/page."], main > script[src^="/assets/log."], head > link[href^="/assets/"], head > meta[charset], head > meta[name]')
      if (!isOurs) say(`an element: ${one.outerHTML.slice(0, 100)}`)
    }
    for (const one of document.querySelectorAll('*')) {
      for (const { name, value } of one.attributes) {
        if (/^on|^style$|^srcdoc$/i.test(name)) say(`an attribute: ${one.outerHTML.slice(0, 100)}`)
        if (['href', 'src', 'action', 'formaction', 'xlink:href'].includes(name) && /^\s*(javascript|data|vbscript):/i.test(value)) say(`a link: ${value}`)
        if (['href', 'action', 'formaction'].includes(name) && !/^(\/(?!\/)|#|\?|https?:\/\/)/.test(value)) say(`a link that leads who knows where: ${value}`)
        // A browser writes an address anew before anybody sees it.
        if (name !== 'href' && new RegExp(invisible).test(value)) say(`${name} holds what cannot be seen: ${JSON.stringify(value.slice(0, 100))}`)
      }
    }
    const text = document.documentElement.textContent
    const at = text.search(new RegExp(invisible))
    if (at >= 0) say(`text that cannot be seen: ${JSON.stringify(text.slice(at - 30, at + 30))}`)
    if (window.wasHacked) say('a script ran')
    return wrong
  }, INVISIBLE)
  assert.deepEqual(found, [], what)
}

async function guarded(page) {
  await page.evaluateOnNewDocument(() => (window.hacked = () => (window.wasHacked = true)))
  await page.reload()
  return page
}

test('a hundred hostile texts are shown as text, on every screen', LIMIT, async (t) => {
  const server = await startServer(t)
  const page = await guarded(await open(t, server))
  await says(page, '#live', 'live')
  // The first half comes by the stream, the whole with the page.
  const leases = []
  for (const [index, text] of HOSTILE.entries()) {
    const project = `p${String(index).padStart(3, '0')}`
    const lease = await server.run(project, await submit(server, project, text))
    await report(lease, text)
    leases.push(lease)
    if (index % 4 === 1) {
      await lease.fail(text, 'upload')
    }
    if (index % 4 === 2) {
      const { status } = await server.send('POST', `/v1/projects/${project}/pause`, { reason: text, actor: text })
      assert.ok(status === 200 || status === 400, String(status))
      await server.send('POST', `${lease.route}/cancel`, { reason: text, actor: text })
    }
  }
  await until(page, (count) => document.querySelectorAll('#projects tr').length === count, HOSTILE.length)
  await assertOnlyText(page, 'all projects, by the stream')
  await assertNoSidewaysScroll(page, 'all projects, by the stream')
  await page.reload()
  await says(page, '#live', 'live')
  assert.equal((await page.$$('#projects tr')).length, HOSTILE.length)
  await assertOnlyText(page, 'all projects')
  await assertNoSidewaysScroll(page, 'all projects')

  const other = await open(t, server, '/', { script: false, screen: PHONE })
  await assertNoSidewaysScroll(other, 'all projects on a phone')
  for (const [index, lease] of leases.entries()) {
    for (const route of screens(lease).slice(1)) {
      const answer = await page.goto(server.url + route, { waitUntil: 'domcontentloaded' })
      assert.equal(answer.status(), 200, route)
      await assertOnlyText(page, `${route}: ${JSON.stringify(HOSTILE[index])}`)
      await assertNoSidewaysScroll(page, `${route}: ${JSON.stringify(HOSTILE[index])}`)
    }
  }
})

test('what is as long as it may be fits on every screen', LIMIT, async (t) => {
  const server = await startServer(t)
  const { line, name, value, ...source } = GIANT
  const project = 'p'.repeat(255)
  const lease = await server.run(project, source)
  await lease.report(
    { type: 'phase', name, state: 'started', message: value },
    { type: 'progress', progress: 40, message: value },
    { type: 'output', name, value },
    { type: 'log', stream: 'stdout', phase: name, lines: [line, value, 'W'.repeat(60_000)] },
  )
  for (const how of [{}, { screen: PHONE }]) {
    const page = await open(t, server, '/', how)
    for (const route of screens(lease)) {
      await page.goto(server.url + route)
      await assertOnlyText(page, route)
      await assertNoSidewaysScroll(page, `${route} ${JSON.stringify(how)}`)
    }
  }
})

test('what is written into addresses stays text, or is no page', LIMIT, async (t) => {
  const server = await startServer(t, { config: '[projects.web]\n' })
  const page = await guarded(await open(t, server))
  const statuses = new Set()
  for (const [index, text] of HOSTILE.entries()) {
    const said = encodeURIComponent(text.toWellFormed?.() ?? text)
    const routes = [
      `/?find=${said}`, `/?sort=${said}`, `/projects/${said}`, `/projects/web/deployments/${said}`,
      `/projects/web?status=${said}&actor=${said}&ref=${said}&before=${said}`,
    ]
    for (const route of routes) {
      const { status } = await server.send('GET', route)
      assert.ok(status < 500, `${route}: ${status}`)
      statuses.add(status)
    }
    // In the browser one of them, in turns.
    const route = routes[index % routes.length]
    await page.goto(server.url + route, { waitUntil: 'domcontentloaded' })
    await assertOnlyText(page, route)
  }
  assert.ok(statuses.has(200) && statuses.has(404), [...statuses].join())
})
