// RFC 9111 sections 3 and 4: what may not be stored does not take away what was stored before.

function variants (directive) {
  return {
    id: `${directive}-keeps-other-variant`,
    name: `A response with ${directive} leaves the stored response of another variant in use`,
    kind: 'optimal',
    requests: [
      {
        request_headers: [['Foo', '1']],
        response_headers: [['Cache-Control', 'max-age=3600'], ['Vary', 'Foo'], ['A', '1']],
        setup: true
      },
      {
        request_headers: [['Foo', '2']],
        response_headers: [['Cache-Control', directive], ['Vary', 'Foo'], ['A', '2']],
        expected_type: 'not_cached',
        setup: true
      },
      {
        request_headers: [['Foo', '1']],
        expected_type: 'cached',
        expected_response_headers: [['a', '1']]
      }
    ]
  }
}

function replacesNothing (directive) {
  return {
    id: `${directive}-after-stale`,
    name: `A response with ${directive} that came instead of a stale one is not reused`,
    requests: [
      {
        response_headers: [['Cache-Control', 'max-age=1'], ['A', '1']],
        setup: true,
        pause_after: true
      },
      {
        response_headers: [['Cache-Control', `max-age=3600, ${directive}`], ['A', '2']],
        expected_type: 'not_cached',
        setup: true
      },
      { expected_type: 'not_cached' }
    ]
  }
}

export default {
  name: 'no-store and private after a stored response',
  id: 'no-store',
  tests: [
    variants('no-store'),
    variants('private'),
    replacesNothing('no-store'),
    replacesNothing('private')
  ]
}
