// What the tests stand on: a real `singletrack serve` with pipelines that wait at gates, the proxy that maps the stock
// client's one submit path onto Singletrack's, and the stock client itself.

import { spawn, execFileSync } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { once } from 'node:events'
import { gunzipSync, gzipSync } from 'node:zlib'
import axios from 'axios'

// The package exports no path to its REST classes, so they are taken by file.
const REST = new URL('./node_modules/checkly/dist/rest/', import.meta.url)
const projects = await import(new URL('projects.js', REST))
const errors = await import(new URL('errors.js', REST))

export const { ProjectDeployCancelledError, ProjectDeployFailedError } = projects
export const { ConflictError, NotFoundError } = errors

/** How long a server may take to stop after SIGTERM before the test says that it hangs. */
const STOP_LIMIT_MS = 20_000

/**
 * Starts a server for one test, and everything in front of it. `pipelines` maps project names to the shell text of the
 * one phase of their `deploy` pipeline; `{dir}` in it stands for the test's own folder.
 */
export async function start(t, pipelines) {
  // Taken down in the reverse order of its building, whatever becomes of the test.
  const ends = []
  t.after(async () => {
    for (const end of ends.reverse()) {
      await end()
    }
  })
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'singletrack-stock-'))
  ends.push(() => fs.rmSync(dir, { recursive: true, force: true }))
  const server = await startServer(ends, dir, pipelines)
  const proxy = await startProxy(ends, server)
  return {
    client: () => stockClient(proxy),
    gate: (name) => openGate(ends, dir, name),
    /** Asks the server itself, past proxy and stock client. */
    get: async (route) => (await axios.get(server + route, { proxy: false })).data,
    /** The lines that phases appended to a file in the test's folder. */
    lines: (name) => fs.readFileSync(path.join(dir, name), 'utf8').trimEnd().split('\n'),
    exists: (name) => fs.existsSync(path.join(dir, name)),
  }
}

/** What the stock client is given to deploy. All but `project` is passed on to Singletrack as it stands. */
export function resources(project, rest = {}) {
  return { project: { logicalId: project, name: project }, ...rest }
}

async function startServer(ends, dir, pipelines) {
  const binary = process.env.SINGLETRACK_BIN
  if (!binary) {
    throw new Error('SINGLETRACK_BIN must name the singletrack binary to test (scripts/test sets it)')
  }
  const config = [`work_dir = "${dir}/work"`]
  for (const [project, run] of Object.entries(pipelines)) {
    config.push(`[[projects.${project}.pipelines.deploy.phases]]`, 'name = "work"')
    config.push(`run = '''\n${run.replaceAll('{dir}', dir)}'''`)
  }
  const configFile = path.join(dir, 'singletrack.toml')
  fs.writeFileSync(configFile, config.join('\n') + '\n')

  const args = ['serve', '--config', configFile, '--store', `sqlite:${dir}/store.db`, '--listen', '127.0.0.1:0']
  const child = spawn(binary, args, { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk) => (said += chunk))
  const ended = new Promise((resolve) => {
    child.on('error', (error) => resolve({ error }))
    child.on('exit', (code, signal) => resolve({ code, signal }))
  })
  ends.push(async () => {
    child.kill('SIGTERM')
    const hangs = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS)
    const end = await ended
    clearTimeout(hangs)
    if (end.code !== 0) {
      throw new Error(`the server ended with ${JSON.stringify(end)} after SIGTERM; it said:\n${said}`)
    }
  })

  const lines = readline.createInterface({ input: child.stdout })
  const first = await Promise.race([once(lines, 'line').then(([line]) => line), ended])
  const url = typeof first === 'string' ? /^listening on (http:\/\/127\.0\.0\.1:\d+)$/.exec(first)?.[1] : undefined
  if (url === undefined) {
    throw new Error(`the server did not say where it listens but ${JSON.stringify(first)}; it said:\n${said}`)
  }
  return url
}

/**
 * Maps `POST /v1/projects/deploy` onto `POST /v1/projects/{project}/deployments`, the project's name being in the body
 * there and in the path here, and passes everything else through as it comes, streams unbuffered.
 */
async function startProxy(ends, upstream) {
  const { hostname, port } = new URL(upstream)
  const proxy = http.createServer(async (request, response) => {
    const { host, connection, ...headers } = request.headers
    let target = request.url
    let body = request
    const { pathname, searchParams } = new URL(request.url, upstream)
    if (request.method === 'POST' && pathname === '/v1/projects/deploy') {
      const { project, ...rest } = JSON.parse(gunzipSync(Buffer.concat(await request.toArray())))
      searchParams.delete('scheduleOnDeploy')
      target = `/v1/projects/${encodeURIComponent(project.logicalId)}/deployments?${searchParams}`
      body = gzipSync(JSON.stringify(rest))
      delete headers['transfer-encoding']
      headers['content-length'] = body.length
    }
    const forwarded = http.request({ hostname, port, method: request.method, path: target, headers, agent: false })
    forwarded.on('response', (answer) => {
      response.writeHead(answer.statusCode, answer.headers)
      response.flushHeaders()
      answer.on('error', () => response.destroy())
      answer.pipe(response)
    })
    forwarded.on('error', () => response.destroy())
    response.on('close', () => forwarded.destroy())
    if (body === request) {
      request.pipe(forwarded)
    } else {
      forwarded.end(body)
    }
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  ends.push(() => {
    proxy.closeAllConnections()
    proxy.close()
  })
  return `http://127.0.0.1:${proxy.address().port}`
}

/** The stock client's class over axios, with errors mapped by the stock client's own function, as its `api.js` does. */
function stockClient(baseURL) {
  const api = axios.create({ baseURL, proxy: false })
  api.interceptors.response.use((response) => response, errors.handleErrorResponse)
  return new projects.default(api)
}

/**
 * A pair of pipes at which a phase stops. The phase says who it is with `echo … > {dir}/NAME.here` and then stands at
 * `read go < {dir}/NAME.go` until the test lets it through. Both ends are held open here, so nobody blocks on opening.
 */
function openGate(ends, dir, name) {
  const [here, go] = ['here', 'go'].map((end) => {
    const fifo = path.join(dir, `${name}.${end}`)
    execFileSync('mkfifo', [fifo])
    const socket = new net.Socket({ fd: fs.openSync(fifo, 'r+'), readable: end === 'here', writable: end === 'go' })
    ends.push(() => socket.destroy())
    return socket
  })
  const arrivals = readline.createInterface({ input: here })[Symbol.asyncIterator]()
  return {
    /** Waits until a phase stands at the gate, and answers what it said. */
    arrival: async () => (await arrivals.next()).value,
    /** Lets as many phases through. */
    open: (count = 1) => go.write('go\n'.repeat(count)),
  }
}
