// RFC 9111 section 5.2.2.3: must-understand limits storing to statuses whose meaning the cache knows, and then overrides no-store.

function understood (id, cacheControl, status) {
  return {
    id,
    name: `${status[0]} with \`Cache-Control: ${cacheControl}\` is reused`,
    kind: 'optimal',
    requests: [
      { response_status: status, response_headers: [['Cache-Control', cacheControl]], setup: true },
      { response_status: status, expected_type: 'cached' }
    ]
  }
}

function notUnderstood (id, cacheControl) {
  return {
    id,
    name: `599 with \`Cache-Control: ${cacheControl}\` is not stored`,
    requests: [
      { response_status: [599, 'Whatever'], response_headers: [['Cache-Control', cacheControl]], setup: true },
      { expected_type: 'not_cached' }
    ]
  }
}

export default {
  name: 'must-understand',
  id: 'must-understand',
  tests: [
    understood('must-understand-200', 'max-age=3600, must-understand', [200, 'OK']),
    understood('must-understand-200-no-store', 'max-age=3600, no-store, must-understand', [200, 'OK']),
    understood('must-understand-200-no-store-order', 'must-understand, no-store, max-age=3600', [200, 'OK']),
    understood('must-understand-404-no-store', 'max-age=3600, no-store, must-understand', [404, 'Not Found']),
    notUnderstood('must-understand-599', 'max-age=3600, must-understand'),
    notUnderstood('must-understand-599-no-store', 'max-age=3600, no-store, must-understand'),
    {
      id: 'must-understand-private',
      name: 'must-understand does not override private',
      requests: [
        { response_headers: [['Cache-Control', 'max-age=3600, private, must-understand']], setup: true },
        { expected_type: 'not_cached' }
      ]
    }
  ]
}
