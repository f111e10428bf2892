// A client for the supplement that also sees interim responses, which the suite's own client hides.

import http from 'node:http'
import { Response } from 'node-fetch'

// Does what `fetch` does, as far as the suite asks, and compares the interim responses with those that the test expects.
// An exchange fails after `timeout` milliseconds without a byte.
export function fetcher (tests, timeout) {
  const byId = new Map(tests.map(test => [test.id, test]))
  return async (url, init = {}) => {
    const { response, interim } = await exchange(url, init, timeout)
    const expected = requestOf(byId, init)?.expected_interim_responses
    if (expected !== undefined) compare(expected, interim)
    return response
  }
}

// Returns the test's request that these fields announce; undefined for the messages that only set a test up.
function requestOf (byId, init) {
  const fields = new Map((init.headers ?? []).map(([name, value]) => [name.toLowerCase(), value]))
  const number = parseInt(fields.get('req-num'))
  return byId.get(fields.get('test-id'))?.requests[number - 1]
}

function exchange (url, init, timeout) {
  return new Promise((resolve, reject) => {
    const interim = []
    const headers = { Connection: 'close' }
    for (const [name, value] of init.headers ?? []) headers[name] = value
    const request = http.request(url, { method: init.method ?? 'GET', headers, agent: false, timeout })
    request.on('timeout', () => request.destroy(new Error(`no answer for ${timeout} ms`)))
    request.on('information', ({ statusCode, headers }) => interim.push([statusCode, headers]))
    request.on('error', reject)
    request.on('response', incoming => {
      const pieces = []
      incoming.on('error', reject)
      incoming.on('data', piece => pieces.push(piece))
      incoming.on('end', () => {
        const fields = []
        for (let at = 0; at < incoming.rawHeaders.length; at += 2) fields.push(incoming.rawHeaders.slice(at, at + 2))
        const response = new Response(Buffer.concat(pieces), {
          status: incoming.statusCode,
          statusText: incoming.statusMessage,
          headers: fields
        })
        resolve({ response, interim })
      })
    })
    request.end(init.body)
  })
}

function compare (expected, received) {
  const statuses = list => list.map(([status]) => status).join(' ') || 'none'
  if (statuses(expected) !== statuses(received)) {
    fail(`Interim responses are ${statuses(received)}, not ${statuses(expected)}`)
  }
  expected.forEach(([status, fields = []], index) => {
    for (const [name, value] of fields) {
      const got = received[index][1][name.toLowerCase()]
      if (got !== value) fail(`Interim response ${status} header ${name} is "${got}", not "${value}"`)
    }
  })
}

function fail (message) {
  throw Object.assign(new Error(message), { name: 'Assertion' })
}
