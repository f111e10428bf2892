// RFC 5861 section 4: a stale response instead of 500, 502, 503, 504 or no answer, within its window only.

const stored = cacheControl => ({
  response_headers: [['Cache-Control', cacheControl]],
  setup: true,
  pause_after: true
})

function insteadOf (status) {
  return {
    id: `stale-if-error-${status[0]}`,
    name: `stale-if-error: the stale response is used instead of ${status[0]}`,
    kind: 'optimal',
    requests: [
      stored('max-age=1, stale-if-error=60'),
      { response_status: status, expected_status: 200, expected_type: 'cached' }
    ]
  }
}

// Expects the origin's own 503, counted by the origin.
function passesOn (id, name, cacheControl, status = [503, 'Service Unavailable']) {
  return {
    id,
    name,
    requests: [
      stored(cacheControl),
      { response_status: status, expected_status: status[0], expected_type: 'not_cached' }
    ]
  }
}

export default {
  name: 'stale-if-error',
  id: 'stale-if-error',
  tests: [
    ...[
      [500, 'Internal Server Error'],
      [502, 'Bad Gateway'],
      [503, 'Service Unavailable'],
      [504, 'Gateway Timeout']
    ].map(insteadOf),
    {
      id: 'stale-if-error-close',
      name: 'stale-if-error: the stale response is used when the origin closes the connection',
      kind: 'optimal',
      requests: [stored('max-age=1, stale-if-error=60'), { disconnect: true, expected_type: 'cached' }]
    },
    passesOn('stale-if-error-404', 'stale-if-error: a 404 is no error and is passed on',
      'max-age=1, stale-if-error=60', [404, 'Not Found']),
    passesOn('stale-if-error-window', 'stale-if-error: not after its window', 'max-age=1, stale-if-error=1'),
    passesOn('stale-if-error-0', 'stale-if-error=0 forbids the stale response', 'max-age=1, stale-if-error=0'),
    passesOn('stale-if-error-must-revalidate', 'must-revalidate prevails over stale-if-error',
      'max-age=1, stale-if-error=60, must-revalidate'),
    {
      id: 'stale-if-error-recovers',
      name: 'stale-if-error: the origin is asked again after it failed',
      requests: [
        stored('max-age=1, stale-if-error=60'),
        { response_status: [503, 'Service Unavailable'], expected_status: 200, expected_type: 'cached', setup: true, pause_after: true },
        { response_headers: [['Recovered', 'yes']], expected_response_headers: [['client-request-count', '3'], ['recovered', 'yes']] }
      ]
    }
  ]
}
