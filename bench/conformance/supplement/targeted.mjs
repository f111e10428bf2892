// RFC 9213: a valid CDN-Cache-Control replaces Cache-Control and Expires altogether; an invalid one is as if it were not there.
//
// The field itself is marked `false`: whether it reaches the viewer is a question of its own.

function reused (id, name, ...fields) {
  return test(id, name, 'optimal', fields, 'cached')
}

function notReused (id, name, ...fields) {
  return test(id, name, 'required', fields, 'not_cached')
}

function test (id, name, kind, fields, expected) {
  return {
    id: `targeted-${id}`,
    name: `CDN-Cache-Control: ${name}`,
    kind,
    requests: [
      { response_headers: [['Date', 0], ...fields], setup: true, pause_after: true },
      { expected_type: expected }
    ]
  }
}

const cdn = value => ['CDN-Cache-Control', value, false]
const fresh = ['Cache-Control', 'max-age=3600']
const past = ['Cache-Control', 'max-age=1']

export default {
  name: 'Targeted cache control',
  id: 'targeted',
  tests: [
    reused('max-age', 'max-age alone makes a response fresh', cdn('max-age=3600')),
    reused('max-age-31-bits', 'max-age up to 2147483648', cdn('max-age=2147483648')),
    reused('max-age-beyond-31-bits', 'max-age beyond 2147483648', cdn('max-age=99999999999')),
    reused('extension', 'an unknown directive beside max-age is ignored', cdn('foobar, max-age=3600')),
    reused('parameters', 'parameters are ignored', cdn('max-age=3600;a=1;b="c"')),
    reused('two-lines', 'two lines are one dictionary', cdn('foobar'), cdn('max-age=3600')),
    reused('expires-past', 'prevails over an Expires of the past', cdn('max-age=3600'), ['Expires', -10000]),
    reused('expires-invalid', 'prevails over an invalid Expires', cdn('max-age=3600'), ['Expires', '0', false]),
    reused('longer', 'prevails over a shorter Cache-Control', past, cdn('max-age=3600')),
    reused('over-no-store', 'prevails over no-store', ['Cache-Control', 'no-store'], cdn('max-age=3600')),
    reused('over-private', 'prevails over private', ['Cache-Control', 'private'], cdn('max-age=3600')),
    reused('invalid-longer', 'Cache-Control holds where the field is invalid', fresh, cdn('max-age=1, &&&&')),
    reused('empty', 'Cache-Control holds where the field is empty', fresh, cdn('')),
    notReused('age', 'an Age beyond max-age means stale', cdn('max-age=3600'), ['Age', '7200']),
    notReused('max-age-0', 'max-age=0 means stale', cdn('max-age=0')),
    notReused('max-age-0-expires', 'max-age=0 prevails over a later Expires', cdn('max-age=0'), ['Expires', 10000]),
    notReused('shorter', 'prevails over a longer Cache-Control', fresh, cdn('max-age=1')),
    notReused('private', 'private', fresh, cdn('private')),
    notReused('no-cache', 'no-cache', fresh, cdn('no-cache')),
    notReused('no-store', 'no-store', fresh, ['Expires', 10000], cdn('no-store')),
    notReused('no-freshness', 'Cache-Control and Expires count for nothing beside a valid field', fresh, ['Expires', 10000], cdn('foobar')),
    notReused('invalid-type', 'a field that is no dictionary is ignored', ['Cache-Control', 'no-store'], cdn('max-age=10000, &&&&&')),
    notReused('wrong-type', 'a max-age that is a string is ignored', ['Cache-Control', 'no-store'], cdn('max-age="10000"')),
    notReused('wrong-type-decimal', 'a max-age that is a decimal is ignored', ['Cache-Control', 'no-store'], cdn('max-age=10000.5')),
    notReused('space-before-equals', 'a space before = makes it invalid', past, cdn('max-age =3600')),
    notReused('space-after-equals', 'a space after = makes it invalid', past, cdn('max-age= 3600')),
    notReused('upper-case', 'a key in upper case makes it invalid', past, cdn('MaX-aGe=3600')),
    {
      id: 'targeted-removed',
      name: 'CDN-Cache-Control is for the caches on the way: no viewer sees it, from the origin or from the cache',
      requests: [
        {
          response_headers: [fresh, cdn('max-age=3600')],
          expected_response_headers_missing: ['cdn-cache-control']
        },
        { expected_type: 'cached', expected_response_headers_missing: ['cdn-cache-control'] }
      ]
    },
    {
      id: 'targeted-age-sent',
      name: 'Cache-Control reaches the viewer as it came, with the Age that it needs',
      requests: [
        { response_headers: [past, cdn('max-age=3600'), ['Date', 0]], setup: true, pause_after: true },
        {
          expected_type: 'cached',
          expected_response_headers: [['cache-control', 'max-age=1'], ['age', '>', 2]]
        }
      ]
    }
  ]
}
