#!/usr/bin/env node
// Makes docs/screens/terminal.svg: two deploys that race to one project, recorded from the real program in terminals of
// their own. `scripts/record-terminal.mjs [BINARY]` after `cargo build`. The picture moves by CSS alone, and stands still at its
// end for people who asked their system for less motion.

import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const BINARY = path.resolve(process.argv[2] ?? path.join(ROOT, 'target/debug/singletrack'))
const TARGET = path.join(ROOT, 'docs/screens/terminal.svg')

const COLUMNS = 120
const ROWS = 8
/** Screens are looked at this often: a spinner need not turn faster here. */
const LOOK_MS = 250
/** A pause in which nothing changes is shown no longer than this. */
const PAUSE_MS = 1200
/** The last screen stays this long before the recording begins again. */
const END_MS = 4000
const TYPED_MS = 28

const CONFIG = `
[[projects.web.pipelines.deploy.phases]]
name = "upload"
run = '''
for part in 15 30 45 60 75 90; do sleep 0.6; echo "::singletrack progress=$part message=Uploading::"; done
'''
rollback = "true"

[[projects.web.pipelines.deploy.phases]]
name = "switch"
run = '''
sleep 1
echo "current -> releases/$SINGLETRACK_COMMIT"
'''

[[projects.web.pipelines.deploy.phases]]
name = "verify"
run = '''
sleep 1.2
echo "::singletrack output url=https://web.example::"
'''
`

/** What the bytes of a program make of a screen: as much of a terminal as the client uses. */
class Screen {
  constructor() {
    this.lines = [[]]
    this.column = 0
    this.style = ''
    this.rest = ''
  }

  write(text) {
    text = this.rest + text
    // A sequence that is not whole yet waits for its end.
    const open = /\x1b(\[[0-9;?]*)?$/.exec(text)
    this.rest = open ? open[0] : ''
    text = open ? text.slice(0, open.index) : text
    for (const [token, , parameters, verb] of text.matchAll(/\x1b(\[([0-9;?]*)([A-Za-z]))|[^]/gu)) {
      verb === undefined ? this.character(token) : this.sequence(verb, parameters)
    }
  }

  character(character) {
    if (character === '\n') {
      this.lines.push([])
      this.column = 0
    } else if (character === '\r') {
      this.column = 0
    } else if (this.column < COLUMNS) {
      const line = this.lines.at(-1)
      while (line.length < this.column) line.push({ text: ' ', style: '' })
      line[this.column++] = { text: character, style: this.style }
    }
  }

  sequence(verb, parameters) {
    if (verb === 'K') {
      this.lines.at(-1).splice(parameters === '2' ? 0 : this.column)
    } else if (verb === 'm') {
      for (const code of parameters.split(';').map(Number)) {
        const colour = { 31: 'r', 32: 'g', 33: 'y', 34: 'b', 36: 'c' }[code]
        this.style = code === 0 ? '' : code === 1 ? `${this.style}B` : colour ? this.style + colour : this.style
      }
    } else if (!'hl'.includes(verb)) {
      throw new Error(`the recorder does not know the sequence ${parameters}${verb}`)
    }
  }

  /** The last rows, each as spans of one style. */
  rows() {
    const shown = this.lines.slice(this.lines.at(-1).length === 0 ? -ROWS - 1 : -ROWS, undefined)
    return shown.slice(0, ROWS).map((line) => {
      const spans = []
      line.forEach(({ text, style }, column) => {
        const last = spans.at(-1)
        last?.style === style ? (last.text += text) : spans.push({ column, text, style })
      })
      return JSON.stringify(spans.map((span) => ({ ...span, text: span.text.trimEnd() })).filter(({ text }) => text))
    })
  }
}

async function main() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'singletrack-recording-'))
  fs.writeFileSync(path.join(dir, 'singletrack.toml'), `work_dir = "${dir}/work"\n${CONFIG}`)
  const serve = ['serve', '--config', `${dir}/singletrack.toml`, '--store', 'memory:', '--listen', '127.0.0.1:0']
  const server = spawn(BINARY, serve, { cwd: dir, stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    const [line] = await once(readline.createInterface({ input: server.stdout }), 'line')
    const url = line.replace('listening on ', '')
    const environment = { PATH: process.env.PATH, HOME: dir, TERM: 'xterm-256color', SINGLETRACK_URL: url, SINGLETRACK_PROJECT: 'web' }
    // Two deploys before, so that expected times can be told.
    for (const _ of [1, 2]) {
      await once(spawn(BINARY, ['deploy'], { env: environment, stdio: 'ignore' }), 'exit')
    }
    const panes = await record(environment)
    fs.mkdirSync(path.dirname(TARGET), { recursive: true })
    fs.writeFileSync(TARGET, draw(panes))
    console.log(`${TARGET}: ${(fs.statSync(TARGET).size / 1024).toFixed(1)} KiB`)
  } finally {
    server.kill('SIGTERM')
    await once(server, 'exit')
    fs.rmSync(dir, { recursive: true, force: true })
  }
}

/** Runs both, and answers what each one's rows were, moment by moment. */
async function record(environment) {
  const commands = [
    { who: 'alice', after: 600, line: 'singletrack deploy --commit 3f2a91c --message "Faster search"' },
    { who: 'bob', after: 2400, line: 'singletrack deploy --commit a4410ff --message "Fix the cart badge"' },
  ]
  const begun = performance.now()
  const panes = await Promise.all(commands.map(async ({ who, after, line }) => {
    const pane = { who, screen: new Screen() }
    pane.looks = [{ at: 0, rows: ['[]'] }]
    const look = () => pane.looks.push({ at: performance.now() - begun, rows: pane.screen.rows() })
    await pause(after)
    pane.screen.write('\x1b[32m$\x1b[0m ')
    for (const letter of line) {
      pane.screen.write(letter)
      look()
      await pause(TYPED_MS)
    }
    pane.screen.write('\r\n')
    const shell = `stty cols ${COLUMNS} rows 24; exec ${line.replace('singletrack', `'${BINARY}'`)} --actor ${who} --ref main`
    const child = spawn('script', ['--quiet', '--flush', '--command', shell, '/dev/null'], {
      env: environment, stdio: ['ignore', 'pipe', 'inherit'],
    })
    child.stdout.setEncoding('utf8')
    child.stdout.on('data', (text) => pane.screen.write(text))
    const timer = setInterval(look, LOOK_MS)
    const [code] = await once(child, 'close')
    clearInterval(timer)
    look()
    if (code !== 0) {
      throw new Error(`${who}'s deploy ended with ${code}: ${pane.screen.rows().join('\n')}`)
    }
    return pane
  }))
  return panes
}

/** The recording as SVG: each text of a row is there from when it came until it changed. */
function draw(panes) {
  const clock = shortened(panes.flatMap(({ looks }) => looks))
  const total = clock(Infinity) + END_MS
  const [cell, height, pad, bar, gap] = [7.83, 18, 14, 28, 12]
  const tall = bar + ROWS * height + pad
  const width = Math.ceil(COLUMNS * cell + 2 * pad)
  const percent = (ms) => `${+((100 * ms) / total).toFixed(2)}%`
  const keyframes = new Map()
  const shapes = []
  panes.forEach(({ who, looks }, index) => {
    const top = index * (tall + gap)
    shapes.push(`<rect class="w" y="${top}" width="${width}" height="${tall}" rx="8"/>`)
    shapes.push(`<text class="n" x="${pad}" y="${top + 18}">${who}’s job</text>`)
    for (let row = 0; row < ROWS; row++) {
      let since = 0
      for (let at = 1; at <= looks.length; at++) {
        const text = looks[since].rows[row] ?? '[]'
        const last = at === looks.length
        if (!last && (looks[at].rows[row] ?? '[]') === text) continue
        const [from, to] = [clock(looks[since].at), last ? total : clock(looks[at].at)]
        since = at
        if (text === '[]' || to <= from) continue
        let name = ''
        if (from > 0 || !last) {
          const key = `${percent(from)} ${last ? '' : percent(to)}`
          if (!keyframes.has(key)) {
            const off = last ? '' : `${percent(to)}{opacity:0}`
            keyframes.set(key, { name: `k${keyframes.size}`, steps: `0%{opacity:0}${percent(from)}{opacity:1}${off}`, last })
          }
          name = keyframes.get(key).name
        }
        const spans = JSON.parse(text).map(({ column, text, style }) => {
          const place = `<tspan x="${+(pad + column * cell).toFixed(1)}"`
          return `${place}${style ? ` class="${[...style].join(' ')}"` : ''}>${escaped(text)}</tspan>`
        })
        shapes.push(`<text class="${name}" y="${top + bar + 14 + row * height}">${spans.join('')}</text>`)
      }
    }
  })
  const moves = [...keyframes.values()]
  const style = [
    `text{font:13px ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d7dde5;white-space:pre}`,
    `.w{fill:#11151b;stroke:#2b323c}.n{font:600 12px system-ui,"DejaVu Sans",sans-serif;fill:#8a939e}`,
    `.B{font-weight:700}.r{fill:#ff8078}.g{fill:#58c98a}.y{fill:#e3ae4f}.b{fill:#7aa5ff}.c{fill:#62c8d8}`,
    `[class^=k]{animation:${(total / 1000).toFixed(2)}s infinite step-end;opacity:0}`,
    ...moves.map(({ name, last }) => `.${name}{animation-name:${name}${last ? ';opacity:1' : ''}}`),
    ...moves.map(({ name, steps }) => `@keyframes ${name}{${steps}}`),
    `@media(prefers-reduced-motion:reduce){text{animation:none!important}}`,
  ].join('\n')
  const all = panes.length * (tall + gap) - gap
  const title = 'Two jobs deploy one project: the second one waits in line, is told for how long, and goes when it is its turn.'
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${all}" width="${width}" height="${all}" role="img" aria-label="${title}">
<style>
${style}
</style>
${shapes.join('\n')}
</svg>
`
}

/** A clock that leaves out what of each pause is too long. */
function shortened(looks) {
  const moments = []
  let before = ''
  for (const { at, rows } of looks.slice().sort((one, other) => one.at - other.at)) {
    if (rows.join() !== before) moments.push(at)
    before = rows.join()
  }
  const cuts = moments.map((at, index) => ({ at, cut: Math.max(0, at - (moments[index - 1] ?? 0) - PAUSE_MS) }))
  return (at) => {
    at = Math.min(at, moments.at(-1))
    return at - cuts.filter((one) => one.at <= at).reduce((sum, { cut }) => sum + cut, 0)
  }
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

await main()
