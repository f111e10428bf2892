// The suite's origin: its own handlers, on a free port of this machine only, and interim responses for the supplement.
//
//   node origin.mjs
//
// Says on standard output where it listens; ends with its process.

import http from 'node:http'
import handleConfig from 'http-cache-tests/server/handle-config.mjs'
import handleState from 'http-cache-tests/server/handle-state.mjs'
import handleTest from 'http-cache-tests/server/handle-test.mjs'
import { configs } from 'http-cache-tests/server/utils.mjs'

// The suite shows messages on standard output, which belongs to the address here.
const say = console.log
console.log = console.error

const handlers = { config: handleConfig, state: handleState, test: handleTest }

const server = http.createServer((request, response) => {
  const [kind, ...rest] = new URL(request.url, 'http://origin').pathname.split('/').slice(1)
  const handler = handlers[kind]
  if (handler === undefined) {
    response.writeHead(404).end()
    return
  }
  if (kind === 'test') sendInterim(rest[0], request, response)
  handler(rest, request, response)
})

server.listen(0, '127.0.0.1', () => say(`listening on 127.0.0.1:${server.address().port}`))

// Sends the `interim_responses` of a test's request: a list of [status, [[name, value], ...]].
function sendInterim (uuid, request, response) {
  const config = configs.get(uuid)?.[parseInt(request.headers['req-num']) - 1]
  for (const [status, fields = []] of config?.interim_responses ?? []) {
    const lines = fields.map(([name, value]) => `${name}: ${value}\r\n`)
    response.socket.write(`HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n`)
  }
}
