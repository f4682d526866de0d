// Every screen of a company's Tuesday: looked at in light and dark, on a phone and on paper, by keyboard and by a screen
// reader's rules, with and without script. SCREENSHOTS=1 writes what is seen into docs/screens.

import assert from 'node:assert/strict'
import fs from 'node:fs'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { PHONE, assertAccessible, assertNoSidewaysScroll, open, says } from './harness/browser.mjs'
import { NOW, startScene } from './harness/scene.mjs'
import { small } from './harness/png.mjs'

const LIMIT = { timeout: 120_000 }
const TARGET = fileURLToPath(new URL('../../docs/screens/', import.meta.url))
/** No picture in the repository is larger. */
const PICTURE_LIMIT = 150 * 1024

let scene
const ends = []
before(async () => (scene = await startScene({ after: (end) => ends.unshift(end) })), { timeout: 120_000 })
after(async () => {
  for (const end of ends) {
    await end()
  }
})

/** Name, path, and what must be read there. */
const SCREENS = [
  ['projects', () => '/', ['billing', 'worker silent', 'alice', 'Faster search on the start page', 'the warehouse counts its stock']],
  ['project', () => '/projects/web', ['alice', 'Faster search on the start page', 'Fix the cart badge', 'Bump the base image', 'schedule', 'vm-2']],
  ['deployment', ({ failed }) => failed.page, ['mara', 'New checkout', 'verify', 'answered 503 for 60 s', 'cannot reach payments']],
  ['deployment-running', ({ running }) => running.page, ['alice', 'migrate', '0118_search_index.sql']],
  ['pause', () => '/projects/web/pause', ['Pause', 'web']],
]

async function look(t, [, route], how) {
  const page = await open(t, scene.server, route(scene), { now: NOW, ...how })
  // A form and what is over stand still.
  if (how.script !== false && await page.$('body[data-live]')) {
    await says(page, '#live', /^live$/)
  }
  return page
}

async function picture(page, name, how) {
  const shot = await page.screenshot({ type: 'png', ...how })
  assert.ok(shot.length > 5_000, `${name} is a picture of something`)
  if (process.env.SCREENSHOTS) {
    const bytes = small(shot)
    assert.ok(bytes.length <= PICTURE_LIMIT, `${name}.png has ${bytes.length} bytes`)
    fs.mkdirSync(TARGET, { recursive: true })
    fs.writeFileSync(path.join(TARGET, `${name}.png`), bytes)
  }
}

for (const screen of SCREENS) {
  const [name, , words] = screen
  for (const theme of ['light', 'dark']) {
    test(`${name}, ${theme}: axe-core finds nothing, and nothing is too wide`, LIMIT, async (t) => {
      const page = await look(t, screen, { theme })
      const text = await page.evaluate(() => document.body.innerText)
      for (const word of words) {
        assert.ok(text.includes(word), `${word} is not in:\n${text}`)
      }
      await assertNoSidewaysScroll(page, name)
      await picture(page, theme === 'light' ? name : `${name}-dark`)
      await assertAccessible(page, `${name}, ${theme}`)
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor)
      const brightness = ground.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)
      assert.equal(brightness < 384, theme === 'dark', `the ground of ${theme} is ${ground}`)
    })
  }

  test(`${name} on a phone: nothing is moved sideways, axe-core finds nothing`, LIMIT, async (t) => {
    const page = await look(t, screen, { screen: PHONE })
    await assertNoSidewaysScroll(page, name)
    await picture(page, `${name}-phone`)
    await assertAccessible(page, `${name} on a phone`)
  })

  // Nobody prints a form.
  name !== 'pause' && test(`${name} on paper: what it says is there, without what can only be used on a screen`, LIMIT, async (t) => {
    const page = await look(t, screen, {})
    await page.emulateMediaType('print')
    await page.setViewport({ width: 720, height: 1000 })
    await assertNoSidewaysScroll(page, `${name} on paper`)
    const text = await page.evaluate(() => document.body.innerText)
    assert.ok(words.every((word) => text.includes(word)), text)
    const useless = await page.$$eval('input:not([type=hidden]), button, .button', (all) =>
      all.filter((one) => one.checkVisibility()).map((one) => one.outerHTML))
    assert.deepEqual(useless, [])
    const pdf = await page.pdf({ format: 'A4' })
    assert.ok(pdf.length > 5_000)
  })

  test(`${name} by keyboard alone: Tab reaches everything, and shows where it is`, LIMIT, async (t) => {
    const page = await look(t, screen, {})
    const wanted = await page.$$eval('a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]', (all) =>
      all.filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled).map((one, index) => {
        one.dataset.reach = index
        return String(index)
      }))
    const reached = []
    for (let turn = 0; turn <= wanted.length; turn++) {
      await page.keyboard.press('Tab')
      const [at, outline] = await page.evaluate(() => {
        const one = document.activeElement
        const style = getComputedStyle(one)
        const box = one.getBoundingClientRect()
        const isSeen = box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0
        return [one.dataset.reach ?? null, one === document.body || (isSeen && style.outlineStyle !== 'none' && style.outlineWidth !== '0px')]
      })
      if (at === null) break
      assert.ok(outline, `the focus is not seen on ${await page.evaluate(() => document.activeElement.outerHTML)}`)
      reached.push(at)
    }
    const missed = wanted.filter((one) => !reached.includes(one))
    const what = await page.evaluate((missed) => missed.map((one) => document.querySelector(`[data-reach="${one}"]`).outerHTML), missed)
    assert.deepEqual(what, [], 'what Tab does not reach')
    assert.deepEqual(reached, [...reached].sort((one, other) => one - other), 'Tab goes as one reads')
  })

  test(`${name} without script: it says the same`, LIMIT, async (t) => {
    const page = await look(t, screen, { script: false })
    const text = await page.$eval('body', (body) => body.innerText)
    assert.ok(words.every((word) => text.includes(word)), text)
    await assertNoSidewaysScroll(page, `${name} without script`)
  })
}

test('/ goes to the search field, and what is typed there leaves what fits', LIMIT, async (t) => {
  const page = await look(t, SCREENS[0], {})
  await page.keyboard.press('/')
  await page.keyboard.type('BILL')
  const shown = await page.$$eval('#projects tr', (rows) => rows.filter((row) => row.checkVisibility()).map((row) => row.dataset.name))
  assert.deepEqual(shown, ['billing'])
})

test('search and order work without script', LIMIT, async (t) => {
  const names = (page) => page.$$eval('#projects tr', (rows) => rows.map((row) => row.id))
  const page = await look(t, SCREENS[0], { script: false })
  assert.equal((await names(page))[0], 'p-billing', 'trouble comes first')
  await Promise.all([page.waitForNavigation(), page.click('.sorts a')])
  const byName = await names(page)
  assert.deepEqual(byName, [...byName].sort())
  await page.type('#search', 'info')
  await page.$eval('#search', (field) => (field.value = ''))
  await page.type('#search', 'e')
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])
  assert.deepEqual(await names(page), byName.filter((name) => name.slice(2).includes('e')))
})
