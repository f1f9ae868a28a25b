// aedes in this process. Arguments: the port, and an ident whose messages may not be published.
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const [port, forbidden] = process.argv.slice(2)
const broker = await Aedes.createBroker()
broker.authorizePublish = (client, packet, callback) =>
  callback(packet.topic.includes('/message/') && packet.topic.includes(forbidden) ? new Error('not allowed') : null)
createServer(broker.handle).listen(Number(port), '127.0.0.1')
