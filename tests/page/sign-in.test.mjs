// A token is pasted once and becomes a session of the browser; what a scope does not allow is not offered.

import assert from 'node:assert/strict'
import http from 'node:http'
import { test } from 'node:test'
import { once } from 'node:events'
import { assertAccessible, assertNoSidewaysScroll, follow, open, press, says, visitor } from './harness/browser.mjs'
import { atEnd } from './harness/ends.mjs'
import { startServer, token } from './harness/server.mjs'

const LIMIT = { timeout: 120_000 }
const ADMIN = token('admin')
const READER = token('reader', ['read'])

async function start(t) {
  const server = await startServer(t, { config: `${ADMIN.lines}${READER.lines}[projects.web]\n` })
  server.token = ADMIN.secret
  return server
}

async function signIn(page, secret) {
  await page.type('#token', secret)
  return follow(page, () => page.keyboard.press('Enter'))
}

for (const script of [true, false]) {
  test(`signing in leads where one wanted to go, and signing out ends it, ${script ? 'with' : 'without'} script`, LIMIT, async (t) => {
    const server = await start(t)
    const { context, tab } = await visitor(t, server, { script })
    const page = await tab('/projects/web')
    assert.match(page.url(), /\/sign-in\?/)
    await assertNoSidewaysScroll(page, 'sign-in')

    await signIn(page, `${ADMIN.secret.slice(0, -4)}abcd`)
    await says(page, '[role=alert]', 'does not know this token')
    await signIn(page, ADMIN.secret)
    assert.equal(page.url(), `${server.url}/projects/web`)
    const cookies = await context.cookies()
    const session = cookies.find((cookie) => cookie.httpOnly && cookie.sameSite === 'Strict')
    assert.ok(session, JSON.stringify(cookies))
    assert.ok(!cookies.some(({ value }) => value.includes(ADMIN.secret)), 'the token itself is kept nowhere')

    await page.goto(server.url)
    if (script) {
      await says(page, '#live', 'live')
      await server.run('web', { actor: 'alice' })
      await says(page, '#p-web', 'alice')
    }
    await follow(page, () => press(page, 'Sign out'))
    await says(page, 'main', 'signed out')
    assert.ok(!(await context.cookies()).some(({ name }) => name === session.name), 'the cookie is gone')
    await context.setCookie(session)
    await page.goto(server.url)
    assert.match(page.url(), /\/sign-in\?/, 'a copy of the session that was ended opens nothing')
  })
}

test('an open page leaves when its token is revoked', LIMIT, async (t) => {
  const server = await start(t)
  const made = await server.ask('POST', '/v1/tokens', { name: 'octo', scopes: ['read'] })
  const page = await open(t, server)
  await signIn(page, made.token)
  await says(page, '#live', 'live')

  await follow(page, () => server.ask('POST', `/v1/tokens/${made.id}/revoke`))
  assert.match(page.url(), /\/sign-in\?/)
})

test('who comes by a link from another site is signed in all the same', LIMIT, async (t) => {
  const server = await start(t)
  // Another name is another site.
  const chat = http.createServer((request, response) => {
    response.setHeader('content-type', 'text/html')
    response.end(`<link rel=icon href="data:,"><a href="${server.url}/?find=web">look</a>`)
  })
  chat.listen(0, 'localhost')
  await once(chat, 'listening')
  atEnd(t, () => {
    chat.closeAllConnections()
    chat.close()
  })
  const { tab, faults } = await visitor(t, server)
  const page = await tab()
  await signIn(page, READER.secret)

  await page.goto(`http://localhost:${chat.address().port}/`)
  await press(page, 'look')
  await says(page, '#p-web', 'free')
  assert.equal(page.url(), `${server.url}/?find=web`)
  // Those were requests to the other site itself.
  assert.deepEqual(faults.splice(0).filter((fault) => !fault.startsWith('request to http://localhost:')), [])
})

for (const theme of ['light', 'dark']) {
  test(`axe-core finds nothing where one signs in, ${theme}`, LIMIT, async (t) => {
    const server = await start(t)
    const page = await open(t, server, '/', { theme })
    await assertAccessible(page, `sign-in, ${theme}`)
    await signIn(page, 'wrong')
    await assertAccessible(page, `sign-in with a wrong token, ${theme}`)
  })
}
