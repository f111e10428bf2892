// RFC 9111 section 4.2.4: a stale response stays unused where the origin forbade it, even when the origin cannot be asked.
// These replace the four `stale-close-*` of the pinned suite, which want a counted answer of an origin that gave none.

function prohibited (cacheControl) {
  return {
    id: `stale-close-${cacheControl}`,
    name: `The origin closes the connection: no stale response with \`Cache-Control: max-age=1, ${cacheControl}\``,
    requests: [
      {
        response_headers: [['Cache-Control', `max-age=1, ${cacheControl}`], ['Stored-Field', 'stored']],
        setup: true,
        pause_after: true
      },
      {
        disconnect: true,
        expected_status: 502,
        check_body: false,
        expected_response_headers_missing: ['server-request-count', 'stored-field']
      }
    ]
  }
}

export default {
  name: 'Stale responses',
  id: 'stale',
  tests: [
    {
      id: 'stale-close-allowed',
      name: 'Is a stale response used when the origin closes the connection?',
      kind: 'check',
      requests: [
        { response_headers: [['Cache-Control', 'max-age=1']], setup: true, pause_after: true },
        { disconnect: true, expected_type: 'cached' }
      ]
    },
    prohibited('must-revalidate'),
    prohibited('proxy-revalidate'),
    prohibited('no-cache'),
    prohibited('s-maxage=1')
  ]
}
