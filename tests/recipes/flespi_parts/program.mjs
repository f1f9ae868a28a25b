// What other programs do with flespi-io-js: its settings, its other names for a call, and the rest of its topics.
import assert from 'node:assert/strict'
import { Connection, IDENT, Tracker, connect, result, say, until, world } from './common.mjs'

const { broker, brokerWithPassword, token } = world
const tracker = new Tracker()
const begin = Math.floor(Date.now() / 1000) - 1800

// --- settings ---

const page = new URL(world.page); const sockets = new URL(broker)
const settings = new Connection({
  token: `FlespiToken ${token}`, // as it is, and not twice
  httpConfig: { server: `${page.protocol}//${page.hostname}`, port: page.port, flespiApp: 'recipe' },
  socketConfig: { server: '' } // HTTP alone
})
assert.deepEqual(await result(settings.gw.getDevices('all', { fields: 'id' })), [{ id: 42 }])
settings.socketConfig = { server: `${sockets.protocol}//${sockets.hostname}`, port: sockets.port, clientId: 'recipe' } // MQTT 3.1.1
await until('it connects once it has an address', () => settings.socket.connected())
settings.token = ''
await until('it goes without a token', () => !settings.socket.connected())
await assert.rejects(settings.gw.getDevices('all'), (error) => error.response.status === 401)
settings.token = `FlespiToken ${token}`
await until('it comes with one', () => settings.socket.connected())
settings.httpConfig = { server: world.page, port: '' }
assert.deepEqual(await result(settings.gw.getDevices('all', { fields: 'id' })), [{ id: 42 }])
say('socketConfig, httpConfig and the token: given at first, and changed')

const plain = connect(world.brokerWithoutWebSockets, token)
await until('it connects without WebSockets', () => plain.socket.connected())
await plain.socket.end()
const stranger = connect(brokerWithPassword, 'wrong', { password: 'secret' })
let refused
stranger.socket.on('error', (error) => { refused = error.code })
await until('a broker that asks for a password refuses a wrong token', () => [134, 135].includes(refused))
await stranger.socket.close(true)

// --- the same call by other names, selectors, and what a list is asked for ---

assert.deepEqual(await result(settings.http.gw.devices.get('all', { fields: 'id,name' })), [{ id: 42, name: 'Van 1' }])
assert.deepEqual(await result(settings.http.get('/gw/devices/all?fields=id')), [{ id: 42 }])
assert.deepEqual((await settings.gw.getDevices('{name~"Van*" && device_type_id==825}', { fields: 'id', limit: 1, offset: 0 })).data,
  { result: [{ id: 42 }], pagination: { count: 1, limit: 1, offset: 0 } })
assert.deepEqual((await settings.gw.getDevices('42,7', { fields: 'id' })).data.errors.map(({ code, id }) => [code, id]), [[404, 7]])
assert.equal((await result(settings.gw.getChannels(1)))[0].name, 'mictrack')
assert.ok((await result(settings.gw.getChannelProtocols('all', { fields: 'name' }))).some(({ name }) => name === 'magicyo'))
await assert.rejects(settings.gw.getCalcs('all'), (error) => error.response.status === 404 && error.response.data.errors.length === 1)
let channels
await settings.poolChannels((answer) => { channels = answer.data.result }, () => {})
assert.deepEqual(channels.map(({ id }) => id), [1])
say('calls by their other names, with selectors, pages and errors')

// --- all topics ---

const program = connect(brokerWithPassword, token, { password: 'secret' })
await until('a program connects', () => program.socket.connected())
const heard = []
const hear = (message, topic, packet) => heard.push({ topic, json: message.length > 0 ? JSON.parse(message) : null, packet })
const heardOf = (topic) => heard.filter((one) => one.topic === `flespi/${topic}`)
const timeOf = ({ packet }) => Number(packet.properties.userProperties.timestamp)
await program.subscribeState('gw', 'devices', 42, hear)
await program.subscribeStateProperties('gw', 'devices', 42, 'connected', hear)
await program.subscribeLogs('gw', 'devices/42', 'connected', hear)
await program.subscribeLogs('gw', 'channels/1/connections/+', 'identified', hear)
await program.subscribeLogs('gw', 'devices/42/commands-queue/+', '+', hear)
await program.subscribeMessagesChannels(1, '+', hear, { filterByTimestamp: true })
await program.subscribeMessagesDevices('+', hear, { filterByTimestamp: true })
const older = []
await settings.subscribeMessagesDevices(42, (message) => older.push(JSON.parse(message)['position.latitude'])) // without MQTT 5
tracker.report(begin, 23.5)
await until('a report is there by the device and by the channel', () =>
  heardOf('message/gw/devices/42').length === 1 && heardOf(`message/gw/channels/1/${IDENT}`).length === 1 && older.length === 1)
for (const topic of ['message/gw/devices/42', `message/gw/channels/1/${IDENT}`]) {
  const [message] = heardOf(topic)
  assert.equal(message.json['position.latitude'], 23.5)
  assert.equal(timeOf(message), begin)
}
assert.deepEqual(older, [23.5])
await until('the state', () => heardOf('state/gw/devices/42').some(({ json }) => json.id === 42 && json.ident === IDENT && json.name === 'Van 1'))
await until('the state of the connection', () => heardOf('state/gw/devices/42/connected').some(({ json }) => json === true))
await until('the log of the device', () => heardOf('log/gw/devices/42/connected').some(({ json }) => json.event_code === 300))
await until('the log of the channel', () => heard.some(({ topic, json }) => topic.startsWith('flespi/log/gw/channels/1/connections/') && json.ident === IDENT))
say('state, logs and messages by their helpers, with MQTT 5 and without')

// --- commands by MQTT ---

const steps = (name) => heard.flatMap(({ topic, json }) => topic.startsWith(`flespi/log/gw/devices/42/commands-queue/${name}/`) ? [[topic.split('/').pop(), json]] : [])
await program.socket.subscribe({ name: 'answers/recipe', handler: hear })
const command = { name: 'mode', properties: { mode: 6, interval: 60 }, meta: { why: 'recipe' } }
await program.socket.publish('flespi/command/gw/devices/42', JSON.stringify(command),
  { qos: 1, properties: { responseTopic: 'answers/recipe', correlationData: Buffer.from('7') } })
await until('the tracker gets it', () => tracker.said.includes('mode,6,60#'))
tracker.write('mode=Success!\r\n')
const answer = await until('the answer comes to the response topic', () => heard.find(({ topic }) => topic === 'answers/recipe'))
assert.equal(answer.json.executed, true)
assert.equal(answer.packet.properties.correlationData.toString(), '7')
await until('its life is in the log', () => steps('mode').some(([step]) => step === 'processed'))
assert.deepEqual(steps('mode').map(([step]) => step), ['queued', 'sent', 'processed'])
assert.ok(steps('mode').every(([, { meta }]) => meta.why === 'recipe'))

tracker.end()
await until('the tracker is away', () => heardOf('state/gw/devices/42/connected').at(-1).json === false)
const queue = (path) => result(settings.gw.getDevicesCommandsQueue(42, path))
const [sent] = await result(settings.gw.postDevicesCommandsQueue(42, { fields: 'name,device_id' }, [{ name: 'rconf' }]))
assert.deepEqual(sent, { name: 'rconf', device_id: 42 })
const [waiting] = await until('it waits', async () => (await queue('all')).length > 0 && queue('name=rconf'))
assert.equal((await queue(waiting.id))[0].name, 'rconf')
await program.socket.publish(`flespi/state/gw/devices/42/commands-queue/${waiting.id}`, '', { retain: true, qos: 1 })
await until('it is canceled', () => steps('rconf').some(([step]) => step === 'canceled'))
await until('it waits no longer', async () => (await queue('all')).length === 0)
await assert.rejects(settings.gw.postDevicesCommandsQueue(42, undefined, [{ name: 'mode', properties: { mode: 99 } }]),
  (error) => error.response.status === 400 && error.response.data.errors[0].reason.length > 0)
say('commands by MQTT with a response topic, and canceled')

// --- no more ---

await program.unsubscribeMessagesDevices('+')
await program.unsubscribeMessagesChannels(1, '+')
const count = heard.filter(({ topic }) => topic.startsWith('flespi/message/')).length
const again = new Tracker()
again.report(begin + 60, 23.6)
await until('who still listens gets it', () => older.includes(23.6))
await until('and its state moves', async () => (await result(settings.gw.getDevicesTelemetry('all', 'position.latitude')))[0].telemetry['position.latitude'].value === 23.6)
assert.equal(heard.filter(({ topic }) => topic.startsWith('flespi/message/')).length, count)
const everything = (await result(settings.gw.getDevicesTelemetry(42, 'all')))[0].telemetry
assert.ok(['ident', 'timestamp', 'position', 'position.longitude', 'battery.voltage'].every((name) => 'value' in everything[name]), Object.keys(everything).join())
say('unsubscribing, and all telemetry')
process.exit(0)
