// Our own tests, in the suite's format, of what the pinned suite does not ask: each file is one subject.
//
// A test's `requests` say what the client sends, what the origin answers and what must come of it; `setup` marks what is not the
// question. `pause_after` waits three seconds. `interim_responses` and `expected_interim_responses` are ours.

import interim from './interim.mjs'
import mustUnderstand from './must-understand.mjs'
import noStore from './no-store.mjs'
import stale from './stale.mjs'
import staleIfError from './stale-if-error.mjs'
import staleWhileRevalidate from './stale-while-revalidate.mjs'
import targeted from './targeted.mjs'

export default [interim, mustUnderstand, noStore, stale, staleIfError, staleWhileRevalidate, targeted]
