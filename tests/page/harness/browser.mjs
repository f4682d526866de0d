// A real Chromium, and pages that tell of everything that a page must not do.

import { atEnd } from './ends.mjs'
import assert from 'node:assert/strict'
import { after } from 'node:test'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import puppeteer from 'puppeteer-core'

/** How long a page may take for anything, unless something hangs. */
export const PATIENCE_MS = 20_000
export const DESK = { width: 1280, height: 800 }
export const PHONE = { width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 2 }

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

function program() {
  const found = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
    .find((place) => place && fs.existsSync(place))
  if (!found) {
    throw new Error('chromium is missing: run scripts/prerequisites, or set CHROMIUM to the program')
  }
  return found
}

let browser
/** The one browser of a file of tests. It ends with the pipe to it, however the tests end. */
async function theBrowser() {
  browser ??= puppeteer.launch({
    executablePath: program(),
    pipe: true,
    args: [
      // Chromium refuses its sandbox to root.
      ...(process.getuid() === 0 ? ['--no-sandbox'] : []),
      '--disable-dev-shm-usage',
      // No other host is asked, by nobody.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
      '--font-render-hinting=none',
      '--force-color-profile=srgb',
      '--lang=en-US',
    ],
  })
  return browser
}
after(async () => {
  await (await browser)?.close()
})

/**
 * A visitor: cookies of its own, and as many tabs as it likes. `script`, `theme`, `screen` and the clock, which
 * stands still at `now`, hold for all of its tabs. At the end of the test nothing may have been heard that no page of ours does.
 */
export async function visitor(t, server, { script = true, theme = 'light', screen = DESK, now } = {}) {
  const context = await (await theBrowser()).createBrowserContext()
  const faults = []
  atEnd(t, async () => {
    await context.close()
    assert.deepEqual(faults, [], 'what pages did that they must not do')
  })
  const tab = async (route = '/') => {
    const page = await context.newPage()
    page.setDefaultTimeout(PATIENCE_MS)
    await page.setViewport({ deviceScaleFactor: 1, ...screen })
    await page.setJavaScriptEnabled(script)
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }])
    await page.emulateTimezone('Europe/Berlin')
    if (now !== undefined) {
      await page.evaluateOnNewDocument(standStill, now)
    }
    watch(page, server, faults)
    await page.goto(server.url + route, { waitUntil: 'load' })
    return page
  }
  return { context, tab, faults }
}

function standStill(now) {
  const RealDate = Date
  globalThis.Date = class extends RealDate {
    constructor(...given) {
      super(...(given.length === 0 ? [now] : given))
    }
    static now() {
      return now
    }
  }
}

/** One tab of a new visitor. */
export async function open(t, server, route = '/', how = {}) {
  return (await visitor(t, server, how)).tab(route)
}

function watch(page, server, faults) {
  const fault = (text) => faults.push(text)
  page.on('dialog', (dialog) => {
    fault(`dialog: ${dialog.message()}`)
    dialog.dismiss()
  })
  page.on('pageerror', (error) => fault(`uncaught: ${error.stack ?? error}`))
  page.on('console', (message) => {
    // A server that is away, or refuses, is told by Chromium itself; tests say where that is right.
    if (['error', 'warn'].includes(message.type()) && !/^Failed to load resource/.test(message.text())) {
      fault(`console: ${message.text()}`)
    }
  })
  page.on('request', (request) => {
    const url = request.url()
    if (!url.startsWith(`${server.url}/`) && !url.startsWith('data:') && url !== 'about:blank') {
      fault(`request to ${url}`)
    }
  })
}

/** Waits until `test`, which runs in the page with `args`, is true of it; the page's text is told where it never is. */
export async function until(page, test, ...args) {
  try {
    await page.waitForFunction(test, { polling: 'mutation', timeout: PATIENCE_MS }, ...args)
  } catch (error) {
    const text = await page.evaluate(() => document.body.innerText).catch(() => 'nothing')
    throw new Error(`${test} did not become true; the page says:\n${text}`, { cause: error })
  }
}

/** Waits until an element's text matches. */
export function says(page, selector, pattern) {
  const source = pattern instanceof RegExp ? pattern.source : pattern.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return until(
    page,
    (selector, source, flags) =>
      [...document.querySelectorAll(selector)].some((element) => new RegExp(source, flags).test(element.innerText)),
    selector,
    source,
    pattern.flags ?? '',
  )
}

/** Does what leads to another page, and waits for that one. */
export async function follow(page, act) {
  const [answer] = await Promise.all([page.waitForNavigation({ waitUntil: 'load' }), act()])
  return answer
}

/** Presses what has this text: a link or a button, as a person finds them. */
export async function press(page, text) {
  const handle = await page.evaluateHandle((text) =>
    [...document.querySelectorAll('a, button, summary')].find((one) => one.checkVisibility() && one.innerText.trim() === text), text)
  const element = handle.asElement()
  assert.ok(element, `there is nothing to press that says ${text}: ${await page.$$eval('a, button', (all) => all.map((one) => one.innerText).join(' | '))}`)
  await element.click()
}

/** Whether something that can be pressed has this text. */
export function offers(page, text) {
  return page.evaluate((text) => [...document.querySelectorAll('a, button')].some((one) => one.checkVisibility() && one.innerText.trim() === text), text)
}

/** Whether the page can be moved sideways. */
export async function assertNoSidewaysScroll(page, what) {
  const wide = await page.evaluate(() => {
    const room = document.documentElement.clientWidth
    // A box that scrolls by itself, such as the output, may hold what is wider.
    const inside = (element) => {
      for (let box = element.parentElement; box && box !== document.body; box = box.parentElement) {
        if (getComputedStyle(box).overflowX !== 'visible') return true
      }
      return false
    }
    return document.documentElement.scrollWidth <= room
      ? []
      : [...document.body.querySelectorAll('*')]
          .filter((element) => element.getBoundingClientRect().right > room + 1 && !inside(element))
          .map((element) => `${element.tagName}.${element.getAttribute('class')}: ${element.textContent.slice(0, 60)}`)
          .concat([`scrollWidth ${document.documentElement.scrollWidth} > ${room}`])
  })
  assert.deepEqual(wide, [], `${what} is wider than its window`)
}

/** What axe-core finds wrong. It runs beside the page's own script, past its policy. */
export async function assertAccessible(page, what) {
  const session = await page.createCDPSession()
  await session.send('Page.enable')
  const { frameTree } = await session.send('Page.getFrameTree')
  const { executionContextId } = await session.send('Page.createIsolatedWorld', {
    frameId: frameTree.frame.id,
    worldName: 'axe',
  })
  const run = async (expression) => {
    const { result, exceptionDetails } = await session.send('Runtime.evaluate', {
      contextId: executionContextId, expression, awaitPromise: true, returnByValue: true,
    })
    assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails))
    return result.value
  }
  await run(`${AXE}; undefined`)
  // What axe-core cannot decide counts as well, but for contrasts before grounds that it cannot see.
  const found = await run(`axe.run(document, { resultTypes: ['violations', 'incomplete'] }).then((results) =>
    results.violations.concat(results.incomplete.filter((one) => one.id !== 'color-contrast')).map((one) =>
      one.id + ', ' + one.nodes.length + ' times: ' + [...new Set(one.nodes.map((node) =>
        node.html.slice(0, 160) + ' ' + node.failureSummary))].slice(0, 8).join('\\n')))`)
  await session.detach()
  assert.deepEqual(found, [], `what axe-core finds in ${what}`)
}
