// Runs the tests of the suite against a cache and prints what came of them as JSON; judges nothing.
//
//   node client.mjs BASE [ID]
//
// BASE is the cache's address, such as http://127.0.0.1:8080; ID names one test, whose messages are then shown on standard error.

import fetch from 'node-fetch'
import { runTests, getResults } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'
import surrogate from 'http-cache-tests/tests/surrogate-control.mjs'

const [base, only] = process.argv.slice(2)
// The suite shows messages on standard output, which belongs to the JSON here.
console.log = console.error

const chosen = [...suites, surrogate].map(suite => ({
  ...suite,
  tests: suite.tests.filter(test => !test.browser_only)
}))
const tests = chosen.flatMap(suite => suite.tests.map(test => ({
  id: test.id,
  suite: suite.id,
  name: test.name,
  kind: test.kind ?? 'required',
  depends_on: test.depends_on ?? []
})))

if (only !== undefined) {
  for (const suite of chosen) {
    suite.tests = suite.tests.filter(test => test.id === only)
    suite.tests.forEach(test => { test.dump = true })
  }
}

await runTests(chosen, fetch, false, base)
process.stdout.write(JSON.stringify({ tests, results: getResults() }, null, 1) + '\n')
