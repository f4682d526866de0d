// Makes the picture of a screen smaller: the 256 colours that are there most, and of each other one the nearest of them.
// A page has few more, at the edges of letters.

import { deflateSync, inflateSync } from 'node:zlib'

const SIGNATURE = Buffer.from('89504e470d0a1a0a', 'hex')

export function small(png) {
  const { width, height, pixels } = decoded(Buffer.from(png))
  const counts = new Map()
  for (const colour of pixels) {
    counts.set(colour, (counts.get(colour) ?? 0) + 1)
  }
  const palette = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 256).map(([colour]) => colour)
  const places = new Map(palette.map((colour, place) => [colour, place]))
  const rows = Buffer.alloc(height * (width + 1))
  pixels.forEach((colour, at) => {
    if (!places.has(colour)) {
      places.set(colour, nearest(palette, colour))
    }
    rows[Math.floor(at / width) * (width + 1) + 1 + (at % width)] = places.get(colour)
  })
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  // Eight bits a pixel, which are the number of a colour.
  header.set([8, 3, 0, 0, 0], 8)
  const colours = Buffer.from(palette.flatMap(parts))
  return Buffer.concat([
    SIGNATURE, chunk('IHDR', header), chunk('PLTE', colours), chunk('IDAT', deflateSync(rows, { level: 9 })), chunk('IEND', Buffer.alloc(0)),
  ])
}

function parts(colour) {
  return [colour >> 16, (colour >> 8) & 255, colour & 255]
}

function nearest(palette, colour) {
  const wanted = parts(colour)
  let best = 0
  let least = Infinity
  palette.forEach((other, place) => {
    const distance = parts(other).reduce((sum, part, index) => sum + (part - wanted[index]) ** 2, 0)
    if (distance < least) {
      [best, least] = [place, distance]
    }
  })
  return best
}

/** What Chromium writes: eight bits of red, green and blue, perhaps with transparency, which a page has not. */
function decoded(png) {
  const [width, height, depth, kind] = [png.readUInt32BE(16), png.readUInt32BE(20), png[24], png[25]]
  if (depth !== 8 || (kind !== 2 && kind !== 6)) {
    throw new Error(`a PNG of kind ${kind} with ${depth} bits`)
  }
  const size = kind === 2 ? 3 : 4
  const data = []
  for (let at = SIGNATURE.length; at < png.length; at += 12 + png.readUInt32BE(at)) {
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT') {
      data.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)))
    }
  }
  const lines = inflateSync(Buffer.concat(data))
  const length = width * size
  const pixels = new Uint32Array(width * height)
  let above = Buffer.alloc(length)
  for (let row = 0; row < height; row++) {
    const filter = lines[row * (length + 1)]
    const line = lines.subarray(row * (length + 1) + 1, (row + 1) * (length + 1))
    for (let at = 0; at < length; at++) {
      const left = at >= size ? line[at - size] : 0
      const corner = at >= size ? above[at - size] : 0
      line[at] += [0, left, above[at], (left + above[at]) >> 1, paeth(left, above[at], corner)][filter]
    }
    for (let column = 0; column < width; column++) {
      pixels[row * width + column] = line.readUIntBE(column * size, 3)
    }
    above = line
  }
  return { width, height, pixels }
}

function paeth(left, above, corner) {
  const guess = left + above - corner
  const [toLeft, toAbove, toCorner] = [left, above, corner].map((one) => Math.abs(guess - one))
  return toLeft <= toAbove && toLeft <= toCorner ? left : toAbove <= toCorner ? above : corner
}

function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name, 'latin1'), data])
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  check.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, check])
}

function crc32(bytes) {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
    }
  }
  return ~crc >>> 0
}
