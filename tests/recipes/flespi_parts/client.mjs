// What TrackIt does with flespi-io-js.
import assert from 'node:assert/strict'
import { IDENT, Tracker, connect, result, say, until, version, world } from './common.mjs'

const { broker, brokerWithPassword, token } = world
const tracker = new Tracker()
const begin = Math.floor(Date.now() / 1000) - 3600

// --- the devices ---

const fleet = connect(broker, token)
await until('it connects with the token as its user name', () => fleet.socket.connected())
say(`flespi-io-js ${version} connects over WebSockets, with a token and no password`)

const program = connect(brokerWithPassword, token, { password: 'secret' })
await until('it connects with a password where the broker asks for one', () => program.socket.connected())

let devices = []
const changes = []
await fleet.poolDevices((answer) => { devices = answer.data.result }, (type, device) => changes.push([type, device]))
assert.deepEqual(devices.map((device) => [device.id, device.name, device.configuration.ident, device.device_type_id]), [[42, 'Van 1', IDENT, 825]])
await program.socket.publish('flespi/registry/gw/devices/866425031377981', '{"id":43,"name":"Car"}', { retain: true, qos: 1 })
await until('a device comes', () => changes.some(([type, device]) => type === 'created' && device.id === 43 && device.configuration.ident === '866425031377981'))
await program.socket.publish('flespi/registry/gw/devices/866425031377981', '{"id":43,"name":"Bus"}', { retain: true, qos: 1 })
await until('it changes', () => changes.some(([type, device]) => type === 'updated' && device.id === 43 && device.name === 'Bus'))
await program.socket.publish('flespi/registry/gw/devices/866425031377981', '', { retain: true, qos: 1 })
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
const topics = new Set()
await everything.subscribeStateDevicesTelemetry(42, '+', (message, topic) => topics.add(topic.split('/').pop()))
const latitude = () => values.get('position.latitude')
tracker.report(begin, 22.5)
await until('a report moves telemetry', () => latitude()?.[0] === 22.5)
assert.equal(latitude()[1], begin)
tracker.report(begin - 600, 22.1) // kept by the tracker while it was out of reach
tracker.report(begin + 60, 22.6)
await until('the next report moves it', () => latitude()?.[0] === 22.6)
await until('all messages have come', () => all.length === 3 && newer.includes(begin + 60))
assert.deepEqual(all, [begin, begin - 600, begin + 60])
assert.deepEqual(newer, [begin, begin + 60])
await until('no value is left out for want of a time', () => topics.has('position') && [...topics].every((name) => values.get(name)?.[1] > 0))
say('filterByTimestamp: a report of the past comes through without it, and not with it')

// --- asked for ---

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
await until('the tracker gets the command', () => tracker.said.includes('mode,6,60#'))
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
say('a wrong token, and a device that is not there')
process.exit(0)
