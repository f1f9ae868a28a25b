// What the parts of tests/recipes/flespi have in common. Each gets, as its argument, the file in which the recipe says where
// everything is.
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

export const world = JSON.parse(readFileSync(process.argv[2]))
export const DEADLINE = 20000 // milliseconds
export const IDENT = '866425031361423'

export const modules = path.resolve(world.folder, 'node_modules')
const library = path.join(modules, 'flespi-io-js')
export const version = JSON.parse(readFileSync(path.join(library, 'package.json'))).version
const module = path.join(library, 'dist/node.mjs') // version 2 has no such file
const loaded = existsSync(module) ? await import(pathToFileURL(module)) : createRequire(import.meta.url)(path.join(library, 'dist/node.js'))
export const Connection = loaded.default ?? loaded

export const say = (text) => console.log(`== ${text}`)
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
export const result = async (request) => (await request).data.result

// Until it returns something true, which is returned.
export async function until (what, condition) {
  const end = Date.now() + DEADLINE
  for (;;) {
    const result = await condition()
    if (result) return result
    if (Date.now() > end) throw new Error(`not so: ${what}`)
    await sleep(50)
  }
}

export function connect (server, token, mqttSettings = {}) {
  return new Connection({
    token, httpConfig: { server: world.page }, socketConfig: { server, mqttSettings: { protocolVersion: 5, ...mqttSettings } }
  })
}

// A Mictrack tracker; said is what it has got.
export class Tracker {
  said = ''

  constructor () {
    this.socket = net.connect(world.tracker, '127.0.0.1')
    this.socket.on('data', (bytes) => { this.said += bytes })
  }

  write (text) {
    this.socket.write(text)
  }

  report (seconds, latitude) {
    const stamp = new Date(seconds * 1000).toISOString().replace(/\D/g, '').slice(2, 14)
    this.write(`MT;6;${IDENT};R0;10+${stamp}+${latitude}+114.02922+2.14+69+2+3744+113\r\n`)
  }

  end () {
    this.socket.end()
  }
}
