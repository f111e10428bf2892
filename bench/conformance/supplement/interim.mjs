// RFC 9110 section 15.2: a proxy forwards interim responses; RFC 9111 section 3: only a final response is stored.

const hints = [['link', '</style.css>; rel=preload; as=style'], ['early-field', 'early']]

function passesThrough (id, name, interim) {
  return {
    id,
    name,
    requests: [
      {
        interim_responses: interim,
        expected_interim_responses: interim,
        response_headers: [['Cache-Control', 'max-age=3600'], ['Final-Field', 'final']]
      },
      {
        expected_type: 'cached',
        expected_interim_responses: [],
        expected_response_headers: [['final-field', 'final']],
        expected_response_headers_missing: ['link', 'early-field']
      }
    ]
  }
}

export default {
  name: 'Interim responses',
  id: 'interim',
  tests: [
    passesThrough('interim-102-forwarded', '102 is forwarded, the final response alone is stored', [[102]]),
    passesThrough('interim-103-forwarded', '103 is forwarded with its fields, the final response alone is stored', [[103, hints]]),
    passesThrough('interim-several-forwarded', 'Several interim responses are forwarded in order', [[102], [103, hints], [103]]),
    {
      id: 'interim-103-not-cached-without-freshness',
      name: 'A 103 that says max-age does not make the final response fresh',
      requests: [
        {
          interim_responses: [[103, [['cache-control', 'max-age=3600']]]],
          expected_interim_responses: [[103]],
          setup: true
        },
        { expected_type: 'not_cached' }
      ]
    },
    {
      id: 'interim-103-before-304',
      name: 'A 103 before a 304 leaves the stored fields alone',
      requests: [
        {
          response_headers: [['Cache-Control', 'no-cache'], ['ETag', '"a"'], ['Final-Field', 'final']],
          setup: true
        },
        {
          interim_responses: [[103, hints]],
          response_headers: [['Cache-Control', 'no-cache'], ['ETag', '"a"']],
          expected_type: 'etag_validated',
          expected_response_headers: [['final-field', 'final']],
          expected_response_headers_missing: ['link', 'early-field']
        }
      ]
    }
  ]
}
