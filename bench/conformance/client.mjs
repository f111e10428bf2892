// Runs the tests against a cache and writes what came of them as JSON; judges nothing.
//
//   node client.mjs BASE OUTPUT suite|supplement [ID]
//
// BASE is the cache's address, such as http://127.0.0.1:8080; ID names one test, whose messages are then shown on standard error.

import fs from 'node:fs'
import fetch from 'node-fetch'
import { runTests, getResults } from 'http-cache-tests/client/runner.mjs'
import npmSuites from 'http-cache-tests/tests/index.mjs'
import surrogate from 'http-cache-tests/tests/surrogate-control.mjs'
import supplement from './supplement/index.mjs'
import { fetcher } from './interim.mjs'

const [base, output, which, only] = process.argv.slice(2)
// The suite's messages are for people: standard output stays empty.
console.log = console.error

const suites = (which === 'supplement' ? supplement : [...npmSuites, surrogate]).map(suite => ({
  ...suite,
  tests: suite.tests.filter(test => !test.browser_only)
}))
const all = suites.flatMap(suite => suite.tests)
const tests = suites.flatMap(suite => suite.tests.map(test => ({
  id: test.id,
  name: test.name,
  kind: test.kind ?? 'required',
  depends_on: test.depends_on ?? []
})))

if (only !== undefined) {
  for (const suite of suites) suite.tests = suite.tests.filter(test => test.id === only)
  all.forEach(test => { test.dump = test.id === only })
}

// A cache that does not answer fails the test, not the run.
const timeout = 20_000
const patient = (url, init) => fetch(url, { ...init, timeout })
await runTests(suites, which === 'supplement' ? fetcher(all, timeout) : patient, false, base)
fs.writeFileSync(output, JSON.stringify({ tests, results: getResults() }))
// A connection that a test left open must not keep this process.
process.exit(0)
