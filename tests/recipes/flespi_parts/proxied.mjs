// What a page does with flespi-io-js behind the nginx of docker/README.md: it learns from the region where HTTP and MQTT are. In
// Node, and in a browser where there is one: argument 2 is its program.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { Connection, DEADLINE, Tracker, modules, result, say, until, world } from './common.mjs'

const browser = process.argv[3]
const tracker = new Tracker()
const begin = Math.floor(Date.now() / 1000) - 900

// --- in Node ---

const connection = new Connection({ token: world.token, httpConfig: { server: world.proxy }, socketConfig: { server: '', mqttSettings: { protocolVersion: 5 } } })
const regions = await result(connection.auth.getRegions())
connection.setRegion(regions.find((region) => region.default))
await until('it connects to where the region says', () => connection.socket.connected())
const seen = []
await connection.subscribeMessagesDevices(42, (message) => seen.push(JSON.parse(message)['position.latitude']), { filterByTimestamp: true })
tracker.report(begin, 24.5)
await until('it gets messages', () => seen.includes(24.5))
assert.deepEqual(await result(connection.gw.getDevices('all', { fields: 'id' })), [{ id: 42 }])
say('behind nginx and TLS, by setRegion')

// --- in a browser ---

// The page has the library's file for browsers, and what that wants, which a bundler would put in.
function makePage () {
  const site = path.join(world.site, 'recipe')
  mkdirSync(site)
  const files = { 'axios.js': 'axios/dist/axios.min.js', 'lodash.js': 'lodash/lodash.min.js', 'mqtt.js': 'mqtt/dist/mqtt.min.js', 'main.js': 'flespi-io-js/dist/main.js' }
  for (const [name, file] of Object.entries(files)) copyFileSync(path.join(modules, file), path.join(site, name))
  const script = (name) => `<script src="${name}"></script>`
  writeFileSync(path.join(site, 'index.html'), `<!DOCTYPE html><title>recipe</title>
${script('axios.js')}${script('lodash.js')}${script('mqtt.js')}
<script>window['lodash/merge'] = _.merge; window['lodash/uniqueId'] = _.uniqueId</script>
${script('main.js')}
`)
}

// Runs in the page.
const inPage = async (token, begin) => {
  const connection = new flespiIO({ token, httpConfig: { server: location.origin }, socketConfig: { server: '', mqttSettings: { protocolVersion: 5 } } })
  const { result: [region] } = (await connection.auth.getRegions()).data
  const until = async (condition) => { while (!condition()) await new Promise((resolve) => setTimeout(resolve, 50)) }
  connection.setRegion(region)
  await until(() => connection.socket.connected())
  const changes = []; let devices; window.messages = []
  await connection.poolDevices((answer) => { devices = answer.data.result }, (type, device) => changes.push([type, device]))
  const values = {}
  await connection.subscribeStateDevicesTelemetry(42, '+', (message, topic) => { values[topic.split('/').pop()] = JSON.parse(new TextDecoder().decode(message)) })
  await connection.subscribeMessagesDevices(42, (message) => window.messages.push(JSON.parse(new TextDecoder().decode(message)).timestamp), { filterByTimestamp: true })
  await until(() => 'position.latitude' in values)
  const [sent] = (await connection.gw.postDevicesCommandsQueue(42, undefined, [{ name: 'rconf' }])).data.result // with an Origin
  const data = { from: begin, to: begin, count: 10 }
  const messages = (await connection.gw.getDevicesMessages(42, { data: JSON.stringify(data) })).data.result
  return { devices: devices.map(({ id, name }) => [id, name]), sent: [sent.name, sent.meta.user], latitude: values['position.latitude'], messages: messages.map((message) => message['position.latitude']) }
}

// Asks the browser to do something; resolves with what it says.
async function open (address) {
  const profile = path.join(world.site, 'browser')
  const process = spawn(browser, ['--headless=new', '--no-sandbox', '--disable-gpu', '--ignore-certificate-errors', '--remote-debugging-port=0',
    `--user-data-dir=${profile}`, address], { stdio: 'ignore' })
  const file = path.join(profile, 'DevToolsActivePort')
  await until('the browser starts', () => existsSync(file) && readFileSync(file, 'utf8').includes('\n'))
  const port = readFileSync(file, 'utf8').split('\n')[0]
  const target = await until('the page is there', async () => (await (await fetch(`http://127.0.0.1:${port}/json`)).json()).find(({ url }) => url === address))
  const { WebSocket } = createRequire(path.join(modules, 'ws/'))('ws')
  const socket = new WebSocket(target.webSocketDebuggerUrl)
  await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject))
  let number = 0
  const evaluate = (expression) => new Promise((resolve, reject) => {
    const id = ++number
    setTimeout(() => reject(new Error(`no answer in the browser to ${expression.slice(0, 80)}`)), DEADLINE)
    socket.on('message', (text) => {
      const { id: of, result } = JSON.parse(text)
      if (of === id) result.exceptionDetails ? reject(new Error(JSON.stringify(result.exceptionDetails))) : resolve(result.result.value)
    })
    socket.send(JSON.stringify({ id, method: 'Runtime.evaluate', params: { expression, awaitPromise: true, returnByValue: true } }))
  })
  return { evaluate, close: () => process.kill() }
}

if (browser) {
  makePage()
  const page = await open(`${world.proxy}/recipe/index.html`)
  await until('the library is loaded', () => page.evaluate('typeof flespiIO === "function"'))
  assert.deepEqual(await page.evaluate(`(${inPage})(${JSON.stringify(world.token)}, ${begin})`),
    { devices: [[42, 'Van 1']], sent: ['rconf', 'fleet'], latitude: 24.5, messages: [24.5] })
  await until('the tracker gets a command from the page', () => tracker.said.includes('rconf,1#'))
  tracker.report(begin + 60, 24.6)
  await until('a message comes to the page', () => page.evaluate(`messages.includes(${begin + 60})`))
  page.close()
  say('in a browser, from a page behind the same nginx')
}
process.exit(0)
