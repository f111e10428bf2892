// RFC 5861 section 3: a stale response at once, within its window, while the origin is asked behind it.

const stored = (cacheControl, ...more) => ({
  response_headers: [['Cache-Control', cacheControl], ...more],
  setup: true,
  pause_after: true
})

export default {
  name: 'stale-while-revalidate',
  id: 'stale-while-revalidate',
  tests: [
    {
      id: 'stale-while-revalidate',
      name: 'stale-while-revalidate: the stale response is used',
      kind: 'optimal',
      requests: [stored('max-age=1, stale-while-revalidate=60'), { expected_type: 'cached' }]
    },
    {
      id: 'stale-while-revalidate-refreshes',
      name: 'stale-while-revalidate: the response fetched behind it serves the next request',
      kind: 'optimal',
      depends_on: ['stale-while-revalidate'],
      requests: [
        stored('max-age=1, stale-while-revalidate=60', ['A', '1']),
        {
          response_headers: [['Cache-Control', 'max-age=3600'], ['A', '2']],
          expected_type: 'cached',
          expected_response_headers: [['a', '1']],
          setup: true,
          pause_after: true
        },
        { expected_type: 'cached', expected_response_headers: [['a', '2'], ['client-request-count', '2']] }
      ]
    },
    {
      id: 'stale-while-revalidate-validates',
      name: 'stale-while-revalidate: a 304 behind it makes the stored response fresh again',
      kind: 'optimal',
      depends_on: ['stale-while-revalidate'],
      requests: [
        stored('max-age=1, stale-while-revalidate=60', ['ETag', '"a"'], ['A', '1']),
        {
          // The refresh carries this request's number: the origin answers it with a 304, as for one that must be validated.
          response_status: [304, 'Not Modified'],
          response_headers: [['Cache-Control', 'max-age=3600', false], ['ETag', '"a"', false], ['A', '2', false]],
          expected_status: 200,
          expected_type: 'cached',
          setup: true,
          pause_after: true
        },
        { expected_type: 'cached', expected_response_headers: [['a', '2'], ['client-request-count', '2']] }
      ]
    },
    {
      id: 'stale-while-revalidate-window',
      name: 'stale-while-revalidate: not after its window',
      requests: [stored('max-age=1, stale-while-revalidate=1'), { expected_type: 'not_cached' }]
    },
    {
      id: 'stale-while-revalidate-window-HEAD',
      name: 'stale-while-revalidate: not after its window, to HEAD neither',
      requests: [
        stored('max-age=1, stale-while-revalidate=1'),
        { request_method: 'HEAD', expected_type: 'not_cached' }
      ]
    },
    {
      id: 'stale-while-revalidate-must-revalidate',
      name: 'must-revalidate prevails over stale-while-revalidate',
      requests: [stored('max-age=1, stale-while-revalidate=60, must-revalidate'), { expected_type: 'not_cached' }]
    },
    {
      id: 'stale-while-revalidate-no-cache',
      name: 'no-cache prevails over stale-while-revalidate',
      requests: [stored('max-age=1, stale-while-revalidate=60, no-cache'), { expected_type: 'not_cached' }]
    },
    {
      id: 'stale-while-revalidate-s-maxage',
      name: 'Is stale-while-revalidate used beside s-maxage, which forbids stale responses to shared caches?',
      kind: 'check',
      requests: [stored('s-maxage=1, stale-while-revalidate=60'), { expected_type: 'cached' }]
    }
  ]
}
