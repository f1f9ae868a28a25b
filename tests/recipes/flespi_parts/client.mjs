// What TrackIt and other programs do with flespi-io-js. Started by tests/recipes/flespi with: the folder that npm has filled, a
// token, the page's address, the broker's for pages, the broker's for programs that have a password, the tracker's port.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, token, page, broker, brokerWithPassword, trackerPort] = process.argv.slice(2)
const DEADLINE = 20000 // milliseconds
const IDENT = '866425031361423'

const library = path.resolve(folder, 'node_modules/flespi-io-js')
const version = JSON.parse(readFileSync(path.join(library, 'package.json'))).version
const module = path.join(library, 'dist/node.mjs') // version 2 has no such file
const loaded = existsSync(module) ? await import(pathToFileURL(module)) : createRequire(import.meta.url)(path.join(library, 'dist/node.js'))
const Connection = loaded.default ?? loaded

const say = (text) => console.log(`== ${text}`)
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// Until it returns something true, which is returned.
async function until (what, condition) {
  const end = Date.now() + DEADLINE
  for (;;) {
    const result = await condition()
    if (result) return result
    if (Date.now() > end) throw new Error(`not so: ${what}`)
    await sleep(50)
  }
}

function connect (server, token, mqttSettings = {}) {
  const connection = new Connection({
    token, httpConfig: { server: page }, socketConfig: { server, mqttSettings: { protocolVersion: 5, ...mqttSettings } }
  })
  return connection
}

// --- the tracker ---

const tracker = net.connect(Number(trackerPort), '127.0.0.1')
let commands = ''
tracker.on('data', (bytes) => { commands += bytes })
const stamp = (seconds) => new Date(seconds * 1000).toISOString().replace(/\D/g, '').slice(2, 14)
const report = (seconds, latitude) => tracker.write(`MT;6;${IDENT};R0;10+${stamp(seconds)}+${latitude}+114.02922+2.14+69+2+3744+113\r\n`)
const begin = Math.floor(Date.now() / 1000) - 3600

// --- what TrackIt does ---

const fleet = connect(broker, token)
await until('it connects with the token as its user name', () => fleet.socket.connected())
say(`flespi-io-js ${version} connects over WebSockets, with a token and no password`)

let devices = []
const changes = []
await fleet.poolDevices((answer) => { devices = answer.data.result }, (type, device) => changes.push([type, device]))
assert.deepEqual(devices.map((device) => [device.id, device.name, device.configuration.ident, device.device_type_id]), [[42, 'Van 1', IDENT, 825]])
await fleet.socket.publish('flespi/registry/gw/devices/866425031377981', '{"id":43,"name":"Car"}', { retain: true, qos: 1 })
await until('a device comes', () => changes.some(([type, device]) => type === 'created' && device.id === 43 && device.configuration.ident === '866425031377981'))
await fleet.socket.publish('flespi/registry/gw/devices/866425031377981', '{"id":43,"name":"Bus"}', { retain: true, qos: 1 })
await until('it changes', () => changes.some(([type, device]) => type === 'updated' && device.id === 43 && device.name === 'Bus'))
await fleet.socket.publish('flespi/registry/gw/devices/866425031377981', '', { retain: true, qos: 1 })
await until('it goes', () => changes.some(([type, device]) => type === 'deleted' && device.id === 43))
say('poolDevices: the devices, and created, updated and deleted')

// --- live, by time ---

const all = []; const newer = []; const values = new Map()
const everything = connect(broker, token) // a broker has one subscription of a topic for each connection
await until('another connects', () => everything.socket.connected())
await everything.subscribeMessagesDevices(42, (message) => all.push(JSON.parse(message).timestamp))
await fleet.subscribeMessagesDevices(42, (message) => newer.push(JSON.parse(message).timestamp), { filterByTimestamp: true })
await fleet.subscribeStateDevicesTelemetry(42, '+', (message, topic, packet) => {
  values.set(topic.split('/').pop(), [JSON.parse(message), Number(packet.properties.userProperties.timestamp)])
}, { filterByTimestamp: true })
const latitude = () => values.get('position.latitude')
report(begin, 22.5)
await until('a report moves telemetry', () => latitude()?.[0] === 22.5)
assert.equal(latitude()[1], begin)
report(begin - 600, 22.1) // kept by the tracker while it was out of reach
report(begin + 60, 22.6)
await until('the next report moves it', () => latitude()?.[0] === 22.6)
await until('all messages have come', () => all.length === 3 && newer.includes(begin + 60))
assert.deepEqual(all, [begin, begin - 600, begin + 60])
assert.deepEqual(newer, [begin, begin + 60])
say('filterByTimestamp: a report of the past comes through without it, and not with it')

// --- asked for ---

const result = async (request) => (await request).data.result
const telemetry = (await until('the page has it', async () => {
  const [device] = await result(fleet.gw.getDevicesTelemetry(42, 'position,ident'))
  return device.telemetry.position?.value.latitude === 22.6 && device
})).telemetry
assert.equal(telemetry.position.ts, begin + 60)
assert.equal(telemetry.ident.value, IDENT)
const messages = (data) => result(fleet.gw.getDevicesMessages(42, { data: JSON.stringify(data) }))
const day = { from: begin - 86400, to: begin + 86400 }
assert.deepEqual((await messages(day)).map((message) => message['position.latitude']), [22.1, 22.5, 22.6])
assert.deepEqual(await messages({ reverse: true, count: 1, fields: 'timestamp' }), [{ timestamp: begin + 60 }])
assert.deepEqual((await messages({ ...day, filter: 'position.latitude>22.2&&position.latitude<22.55' })).map((message) => message.timestamp), [begin])
const [device] = await result(fleet.gw.getDevices('configuration.ident=8664*,connected=true'))
assert.equal(device.id, 42)
const [type] = await result(fleet.gw.getChannelProtocolsDeviceTypes('all', device.device_type_id, { fields: 'protocol_id' }))
const [protocol] = await result(fleet.gw.getChannelProtocols(type.protocol_id, { fields: 'message_parameters' }))
assert.equal(protocol.message_parameters.find(({ name }) => name === 'position.speed').unit, 'km/h')
assert.deepEqual(await result(fleet.gw.getChannels('all', { fields: 'id,protocol_name' })), [{ id: 1, protocol_name: 'mictrack' }])
say('devices, telemetry, messages, channels and protocols, as TrackIt asks for them')

// --- commands ---

const [sent] = await result(fleet.gw.postDevicesCommandsQueue(42, undefined, [{ name: 'mode', properties: { mode: 6, interval: 60 } }]))
assert.deepEqual([sent.name, sent.device_id, sent.meta.user], ['mode', 42, 'fleet'])
await until('the tracker gets the command', () => commands.includes('mode,6,60#'))
const [waiting] = await until('it waits for the answer', async () => {
  const queue = await result(fleet.gw.getDevicesCommandsQueue(42, 'all'))
  return queue.length > 0 && queue
})
assert.equal(waiting.name, 'mode')
tracker.write('mode=Success!\r\n')
await until('the command is done', async () => (await result(fleet.gw.getDevicesCommandsQueue(42, 'all'))).length === 0)
say('a command, from the queue to its end')

// --- who may ---

const stranger = connect(broker, 'wrong')
await assert.rejects(stranger.gw.getDevices('all'), (error) => error.response.status === 401 && error.response.data.errors[0].reason === 'The token is wrong.')
await assert.rejects(fleet.gw.getDevices('7'), (error) => error.response.status === 404 && error.response.data.errors[0].id === 7)
const program = connect(brokerWithPassword, token, { password: 'secret' })
await until('it connects with a password', () => program.socket.connected())
say('a wrong token, a device that is not there, and a broker that asks for a password')
process.exit(0)
