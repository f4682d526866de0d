// A proxy of bytes between browser and server that can fall silent without hanging up.

import { atEnd } from './ends.mjs'
import net from 'node:net'
import { once } from 'node:events'

export async function startProxy(t, server) {
  const pairs = new Set()
  const listener = net.createServer((near) => {
    const { hostname, port } = new URL(server.url)
    const far = net.connect(Number(port), hostname)
    const pair = { near, far, muted: false, said: '' }
    pairs.add(pair)
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on('data', (chunk) => {
        if (from === near) {
          pair.said = chunk.toString('latin1')
        }
        if (!pair.muted) {
          to.write(chunk)
        }
      })
      from.on('error', () => {})
      from.on('close', () => {
        pairs.delete(pair)
        to.destroy()
      })
    }
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  atEnd(t, () => {
    for (const { near, far } of pairs) {
      near.destroy()
      far.destroy()
    }
    listener.close()
  })
  return {
    url: `http://127.0.0.1:${listener.address().port}`,
    /** From now on no byte passes through the connections whose last request was such; they stay open. */
    mute: (pattern) => {
      const muted = [...pairs].filter((pair) => pattern.test(pair.said))
      for (const pair of muted) {
        pair.muted = true
      }
      return muted.length
    },
  }
}
