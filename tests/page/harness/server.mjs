// A real `singletrack serve` for one test, and what its clients say to it. Deployments are driven through the API, so that
// a test decides itself when each step happens: `Run` is a client that holds the slot, as `singletrack run` does, and
// `Agent` takes work as `singletrack agent` does.

import { atEnd } from './ends.mjs'
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { once } from 'node:events'

/** How long a server may take to stop after SIGTERM before the test says that it hangs. */
const STOP_LIMIT_MS = 20_000

export function binary() {
  const binary = process.env.SINGLETRACK_BIN
  if (!binary) {
    throw new Error('SINGLETRACK_BIN must name the singletrack binary to test (scripts/test sets it)')
  }
  return binary
}

/** A token, and the lines of a configuration that let its holder do what `scopes` says. */
export function token(name, scopes) {
  const secret = execFileSync(binary(), ['token', 'new', '--name', name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim().split('\n')[0]
  const sha256 = createHash('sha256').update(secret).digest('hex')
  return { secret, lines: `[[tokens]]\nname = "${name}"\nsha256 = "${sha256}"\n${scopes ? `scopes = ${JSON.stringify(scopes)}\n` : ''}` }
}

/** A folder that is removed after the test. */
export function folder(t) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'singletrack-page-'))
  atEnd(t, () => fs.rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** Starts a server. `config` is TOML; `{dir}` in it stands for the test's folder. `env` is added to the environment. */
export async function startServer(t, { config = '', dir = folder(t), env = {} } = {}) {
  const server = new Server(dir, env)
  fs.writeFileSync(server.configFile, `work_dir = "${dir}/work"\n${config.replaceAll('{dir}', dir)}`)
  atEnd(t, () => server.stop())
  await server.start()
  return server
}

class Server {
  constructor(dir, env) {
    this.dir = dir
    this.env = { ...process.env, ...env }
    this.configFile = path.join(dir, 'singletrack.toml')
    this.listen = '127.0.0.1:0'
    this.token = undefined
  }

  /** Starts it; after an end, at the same address as before. */
  async start() {
    const args = ['serve', '--config', this.configFile, '--store', `sqlite:${this.dir}/store.db`, '--listen', this.listen]
    const child = spawn(binary(), args, { cwd: this.dir, env: this.env, stdio: ['ignore', 'pipe', 'pipe'] })
    this.child = child
    this.said = ''
    child.stderr.on('data', (chunk) => (this.said += chunk))
    this.ended = new Promise((resolve) => {
      child.on('error', (error) => resolve({ error }))
      child.on('exit', (code, signal) => resolve({ code, signal }))
    })
    const lines = readline.createInterface({ input: child.stdout })
    const first = await Promise.race([once(lines, 'line').then(([line]) => line), this.ended])
    const url = typeof first === 'string' ? /^listening on (http:\/\/(127\.0\.0\.1:\d+))$/.exec(first) : null
    if (url === null) {
      throw new Error(`the server did not say where it listens but ${JSON.stringify(first)}; it said:\n${this.said}`)
    }
    this.url = url[1]
    this.listen = url[2]
  }

  /** As a crash or the loss of its machine ends it. */
  async kill() {
    this.child.kill('SIGKILL')
    await this.ended
    this.child = undefined
  }

  async stop() {
    if (this.child === undefined) {
      return
    }
    this.child.kill('SIGTERM')
    const hangs = setTimeout(() => this.child.kill('SIGKILL'), STOP_LIMIT_MS)
    const end = await this.ended
    clearTimeout(hangs)
    this.child = undefined
    if (end.code !== 0) {
      throw new Error(`the server ended with ${JSON.stringify(end)} after SIGTERM; it said:\n${this.said}`)
    }
  }

  async send(method, route, body, headers = {}) {
    const answer = await fetch(this.url + route, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(this.token === undefined ? {} : { authorization: `Bearer ${this.token}` }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
    const text = await answer.text()
    const json = text.startsWith('{') ? JSON.parse(text) : undefined
    return { status: answer.status, text, json }
  }

  /** The same, of a request that must be answered with success. */
  async ask(method, route, body, headers) {
    const { status, text, json } = await this.send(method, route, body, headers)
    assert.ok(status < 300, `${method} ${route}: ${status} ${text}`)
    return json
  }

  get(route) {
    return this.ask('GET', route)
  }

  deployment(project, id) {
    return this.get(`/v1/projects/${project}/deployments/${id}`)
  }

  /** Puts a deployment in line, or into the free slot. */
  queue(project, source = {}) {
    return this.ask('POST', `/v1/projects/${project}/deployments`, { onConflict: 'queue', ...source })
  }

  /** Puts one in line as a CI job does that waits there. */
  async wait(project, source = {}) {
    const headers = { 'idempotency-key': randomUUID() }
    const body = { onConflict: 'wait', ...source }
    const { status, text, json } = await this.send('POST', `/v1/projects/${project}/deployments`, body, headers)
    assert.equal(status, 409, text)
    return json.ticket
  }

  /** Takes the slot, which must be free. */
  async run(project, source = {}, leaseSeconds = 600) {
    const body = { executor: 'client', claim: true, leaseSeconds, ...source }
    const { lease, ...deployment } = await this.ask('POST', `/v1/projects/${project}/deployments`, body)
    return new Lease(this, project, deployment, lease)
  }

  /** Takes one deployment as an agent, which waits for it as long as it takes. */
  async claim(worker, projects) {
    const body = { worker, claimId: randomUUID(), projects }
    const { lease, deployment } = await this.ask('POST', '/v1/claims?maxWaitSeconds=30', body)
    return new Lease(this, deployment.project, deployment, lease)
  }
}

/** Work under a lease. */
class Lease {
  constructor(server, project, deployment, lease) {
    this.server = server
    this.project = project
    this.deployment = deployment
    this.id = deployment.id
    this.number = deployment.number
    this.headers = { 'singletrack-lease': lease.secret }
    this.route = `/v1/projects/${project}/deployments/${this.id}`
    /** Where its page is. */
    this.page = `/projects/${project}/deployments/${this.id}`
    this.next = 1
  }

  async report(...reports) {
    const body = { first: this.next, reports }
    this.next += reports.length
    await this.server.ask('POST', `${this.route}/reports`, body, this.headers)
  }

  phase(name, state = 'started', message = null) {
    return this.report({ type: 'phase', name, state, message })
  }

  progress(progress, message = null) {
    return this.report({ type: 'progress', progress, message })
  }

  log(phase, lines, stream = 'stdout') {
    return this.report({ type: 'log', stream, phase, lines: [lines].flat() })
  }

  output(name, value) {
    return this.report({ type: 'output', name, value })
  }

  heartbeat() {
    return this.server.ask('POST', `${this.route}/heartbeat`, undefined, this.headers)
  }

  succeed() {
    return this.server.ask('POST', `${this.route}/finish`, { status: 'SUCCEEDED' }, this.headers)
  }

  fail(message, phase = null, code = 'PHASE_FAILED') {
    const body = { status: 'FAILED', error: { code, message, phase } }
    return this.server.ask('POST', `${this.route}/finish`, body, this.headers)
  }

  /** Does as it was asked by a cancel. */
  stopAsAsked() {
    return this.server.ask('POST', `${this.route}/finish`, { status: 'CANCELLED' }, this.headers)
  }
}
