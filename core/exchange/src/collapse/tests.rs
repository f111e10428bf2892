//! The rules of collapsing one by one, then random lists of operations against a model that keeps every flight there ever was.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { waiters_max: 64, marks_max: 8, mark_millis: 1000 };

fn at(millis: u64) -> Now {
    Now { wall: 0, millis }
}

fn get(primary: u128, key: &[u8]) -> Asked<'_> {
    Asked { primary, selected: aspis_cache::key::hash(key), key, wants: Wants::LeadOrFollow }
}

fn head(primary: u128, key: &[u8]) -> Asked<'_> {
    Asked { wants: Wants::FollowOnly, ..get(primary, key) }
}

fn kept(names: &str) -> Outcome {
    Outcome::Kept { names: names.into(), shared: Shared::WithAll }
}

/// One flight with a leader, 0, and `followers`.
fn flying(followers: u32) -> (Collapse<u32>, FlightId) {
    let mut collapse = Collapse::new(LIMITS);
    let Place::Lead(flight) = collapse.ask(get(1, b"a"), 0, at(0)) else { panic!("nobody flies") };
    for follower in 1..=followers {
        assert_eq!(collapse.ask(get(1, b"a"), follower, at(0)), Place::Wait(flight));
    }
    (collapse, flight)
}

/// What each of a leader and two followers is told.
fn told(outcome: Outcome) -> (Collapse<u32>, FlightId, [Answer; 3]) {
    let (mut collapse, flight) = flying(2);
    let answers = collapse.settle(flight, outcome, at(10));
    assert_eq!(answers.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [0, 1, 2], "the leader first");
    assert_eq!(collapse.waiting(), 0);
    (collapse, flight, [answers[0].1, answers[1].1, answers[2].1])
}

/// C-1, C-2, C-4.
#[test]
fn one_fetches_and_its_response_answers_all_who_wait() {
    let (mut collapse, flight, answers) = told(kept(""));
    assert_eq!(answers, [Answer::Lead, Answer::Follow, Answer::Follow]);
    assert!(!collapse.is_doomed(flight), "it may be stored");
    assert_eq!(collapse.ask(get(1, b"a"), 3, at(20)), Place::Attach(flight, 3), "while it is arriving");
    collapse.end(flight);
    assert!(matches!(collapse.ask(get(1, b"a"), 4, at(30)), Place::Lead(next) if next != flight));
    let (_, _, answers) = told(Outcome::Confirmed(Shared::WithAll));
    assert_eq!(answers, [Answer::Lead, Answer::Follow, Answer::Follow], "one validation for all");
}

/// C-3.
#[test]
fn other_keys_fly_for_themselves() {
    let (mut collapse, flight) = flying(0);
    assert!(matches!(collapse.ask(get(2, b"b"), 1, at(0)), Place::Lead(other) if other != flight));
    assert!(matches!(collapse.ask(get(1, b"a\nvariant"), 2, at(0)), Place::Lead(other) if other != flight));
    assert_eq!(collapse.flights(), 3);
}

/// C-3: what matters is the key, not its hash.
#[test]
fn keys_of_one_hash_are_told_apart() {
    let (mut collapse, flight) = flying(0);
    let stranger = Asked { key: b"b", ..get(1, b"a") };
    assert_eq!(collapse.ask(stranger, 1, at(0)), Place::Alone(1));
    assert_eq!(collapse.begin(stranger), None);
    collapse.settle(flight, kept(""), at(1));
    assert_eq!(collapse.ask(stranger, 1, at(2)), Place::Alone(1));
}

/// C-3: HEAD has the key of GET, but cannot answer one.
#[test]
fn head_follows_and_never_leads() {
    let mut collapse = Collapse::new(LIMITS);
    assert_eq!(collapse.ask(head(1, b"a"), 0, at(0)), Place::Alone(0));
    let (mut collapse, flight) = flying(0);
    assert_eq!(collapse.ask(head(1, b"a"), 1, at(0)), Place::Wait(flight));
    collapse.settle(flight, kept(""), at(1));
    assert_eq!(collapse.ask(head(1, b"a"), 1, at(2)), Place::Attach(flight, 1));
}

/// C-6, C-8, C-13: nobody queues for what is for one viewer only, now and for a while.
#[test]
fn what_is_not_shared_releases_the_followers_and_leaves_a_mark() {
    for outcome in [
        Outcome::Passed { status: 200 },
        Outcome::Passed { status: 403 },
        Outcome::Passed { status: 501 },
        Outcome::Kept { names: "".into(), shared: Shared::LeaderOnly },
        Outcome::Confirmed(Shared::LeaderOnly),
    ] {
        let (mut collapse, flight, answers) = told(outcome.clone());
        assert_eq!(answers, [Answer::Lead, Answer::Alone, Answer::Alone], "{outcome:?}");
        assert!(collapse.is_marked(1, at(20)));
        assert_eq!(collapse.ask(get(1, b"a"), 3, at(20)), Place::Alone(3));
        assert_eq!(collapse.ask(get(1, b"a\nvariant"), 3, at(20)), Place::Alone(3), "of all variants");
        assert!(matches!(collapse.ask(get(1, b"a"), 3, at(1010)), Place::Lead(_)), "the mark ends");
        let passed = matches!(outcome, Outcome::Passed { .. });
        assert_eq!(collapse.is_doomed(flight), passed, "what is not stored is over");
    }
}

/// C-13: a response for all lifts the mark.
#[test]
fn a_shared_response_lifts_the_mark() {
    let (mut collapse, flight) = flying(0);
    collapse.mark(1, 0, at(0));
    assert_eq!(collapse.ask(get(1, b"a"), 1, at(1)), Place::Alone(1), "nobody waits while the mark holds");
    collapse.settle(flight, kept(""), at(2));
    assert!(!collapse.is_marked(1, at(3)));
    collapse.mark(1, 0, at(4));
    assert_eq!(
        collapse.ask(get(1, b"a"), 1, at(5)),
        Place::Attach(flight, 1),
        "what is there is better than a fetch"
    );
    collapse.lift_mark(1);
    assert!(!collapse.is_marked(1, at(6)));
}

/// I-22: who would join sees the number under which the flight's request went out, and a closed flight is joined by nobody.
#[test]
fn a_flight_tells_its_number_before_it_is_joined() {
    let (mut collapse, flight) = flying(1);
    assert_eq!(collapse.number(flight), Some(0), "nobody said that it was sent");
    collapse.sent(flight, 7);
    let joinable = Joinable { flight, number: 7, arriving: false };
    assert_eq!(collapse.joinable(&get(1, b"a")), Some(joinable));
    assert_eq!((collapse.joinable(&get(1, b"b")), collapse.oldest_number()), (None, Some(7)));
    collapse.close(flight);
    assert_eq!(collapse.joinable(&get(1, b"a")), None);
    let Place::Lead(next) = collapse.ask(get(1, b"a"), 5, at(1)) else {
        panic!("the closed one is not joined")
    };
    collapse.sent(next, 9);
    assert_eq!(collapse.oldest_number(), Some(7), "it still flies");
    assert_eq!(collapse.settle(flight, kept(""), at(2)).len(), 2, "who was there is answered");
    assert!(!collapse.is_doomed(flight), "whether it is stored the rules say");
    assert_eq!(collapse.oldest_number(), Some(9), "what arrives has a number of its own");
    assert_eq!(collapse.joinable(&get(1, b"a")).map(|joinable| joinable.flight), Some(next));
    collapse.end(flight);
    assert_eq!(collapse.number(flight), None);
}

/// The number of a flight's last attempt counts: what comes is the answer to that.
#[test]
fn a_mark_has_the_number_of_the_attempt_that_was_answered() {
    let (mut collapse, flight) = flying(0);
    collapse.sent(flight, 3);
    collapse.sent(flight, 5);
    collapse.settle(flight, Outcome::Passed { status: 200 }, at(10));
    assert_eq!(collapse.mark_number(1, at(11)), Some(5));
    assert_eq!((collapse.marked_until(1, at(11)), collapse.mark_number(1, at(1010))), (Some(1010), None));
    collapse.lift_mark(1);
    assert_eq!(collapse.mark_number(1, at(11)), None);
}

#[test]
fn no_marks_where_the_operator_wants_none() {
    let mut collapse = Collapse::new(Limits { mark_millis: 0, ..LIMITS });
    let Place::Lead(flight) = collapse.ask(get(1, b"a"), 0, at(0)) else { panic!() };
    collapse.settle(flight, Outcome::Passed { status: 200 }, at(1));
    assert!(matches!(collapse.ask(get(1, b"a"), 1, at(1)), Place::Lead(_)));
}

/// C-8, C-9: trouble is told once to all, and answered by no stampede.
#[test]
fn trouble_of_the_origin_answers_everybody() {
    for status in [500, 502, 503, 504] {
        let (collapse, _, answers) = told(Outcome::Passed { status });
        assert_eq!(answers, [Answer::Lead, Answer::Refuse { status }, Answer::Refuse { status }]);
        assert!(!collapse.is_marked(1, at(10)));
    }
    for (outcome, answer) in [(Outcome::Stale, Answer::Stale), (Outcome::Failed, Answer::Failed)] {
        let (collapse, flight, answers) = told(outcome);
        assert_eq!(answers, [answer; 3]);
        assert!(collapse.is_doomed(flight) && collapse.flights() == 0 && !collapse.is_marked(1, at(10)));
    }
}

/// C-11: who went away gives its place to others, of whatever flight it was.
#[test]
fn those_that_stay_keep_their_places() {
    let (mut collapse, flight) = flying(3);
    let Place::Lead(other) = collapse.ask(get(2, b"b"), 4, at(0)) else { panic!("nobody flies") };
    assert_eq!(collapse.ask(get(2, b"b"), 5, at(0)), Place::Wait(other));
    collapse.retain_followers(|waiter| waiter % 2 == 1);
    assert_eq!(collapse.waiting(), 5, "without follower 2, but with leaders 0 and 4");
    let waiters =
        |answers: Vec<(u32, Answer)>| answers.into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>();
    assert_eq!(waiters(collapse.settle(flight, kept(""), at(1))), [0, 1, 3]);
    collapse.retain_followers(|_| false);
    assert_eq!(waiters(collapse.settle(other, kept(""), at(1))), [4]);
    assert_eq!(collapse.waiting(), 0);
}

/// C-9: a viewer that leaves takes nobody along; C-11: nobody is forgotten.
#[test]
fn flights_go_on_without_those_who_left() {
    let (mut collapse, flight) = flying(3);
    collapse.leave(flight, |&waiter| waiter == 0 || waiter == 2);
    assert_eq!(collapse.waiting(), 2);
    assert_eq!(collapse.ask(get(1, b"a"), 4, at(0)), Place::Wait(flight));
    let answers = collapse.settle(flight, kept(""), at(1));
    assert_eq!(answers, [1, 3, 4].map(|waiter| (waiter, Answer::Follow)));
    collapse.leave(flight, |_| true);
    collapse.end(flight);
    collapse.leave(flight, |_| true);
    assert_eq!((collapse.flights(), collapse.waiting()), (0, 0));
}

/// C-9: what came for a leader that left is given to nobody else, since it may be for that one only.
#[test]
fn nobody_takes_the_place_of_a_leader_that_left() {
    let (mut collapse, flight) = flying(1);
    collapse.leave(flight, |&waiter| waiter == 0);
    assert_eq!(collapse.settle(flight, Outcome::Passed { status: 200 }, at(1)), [(1, Answer::Alone)]);
}

/// C-11: those who wait are bounded.
#[test]
fn too_many_are_refused() {
    let mut collapse = Collapse::new(Limits { waiters_max: 2, ..LIMITS });
    let Place::Lead(flight) = collapse.ask(get(1, b"a"), 0, at(0)) else { panic!() };
    assert_eq!(collapse.ask(get(1, b"a"), 1, at(0)), Place::Wait(flight));
    assert_eq!(collapse.ask(get(1, b"a"), 2, at(0)), Place::Full(2));
    assert_eq!(collapse.ask(get(2, b"b"), 2, at(0)), Place::Full(2));
    collapse.settle(flight, kept(""), at(1));
    assert!(matches!(collapse.ask(get(2, b"b"), 2, at(1)), Place::Lead(_)));
}

/// RFC 5861 §3: a stale response is validated once at a time, and who comes meanwhile may wait for it.
#[test]
fn a_refresh_flies_once_and_can_be_followed() {
    let mut collapse = Collapse::new(LIMITS);
    let flight = collapse.begin(get(1, b"a")).unwrap();
    assert_eq!(collapse.begin(get(1, b"a")), None);
    assert_eq!(collapse.ask(get(1, b"a"), 0, at(0)), Place::Wait(flight));
    assert_eq!(collapse.settle(flight, Outcome::Confirmed(Shared::WithAll), at(1)), [(0, Answer::Follow)]);
    collapse.end(flight);
    assert!(collapse.begin(get(1, b"a")).is_some());
}

/// RFC 9111 §4.4: what was asked for before an invalidation answers those who asked before it, and is not stored.
#[test]
fn doomed_flights_are_not_joined() {
    let (mut collapse, flight) = flying(1);
    let Place::Lead(variant) = collapse.ask(get(1, b"a\nvariant"), 10, at(0)) else { panic!() };
    let Place::Lead(other) = collapse.ask(get(2, b"b"), 20, at(0)) else { panic!() };
    collapse.settle(variant, kept("accept"), at(1));
    collapse.mark(1, 0, at(1));
    collapse.invalidate(1);
    assert!(collapse.is_doomed(flight) && collapse.is_doomed(variant) && !collapse.is_doomed(other));
    assert!(!collapse.is_marked(1, at(2)));
    assert_eq!(collapse.names(1, b"a"), None);
    let Place::Lead(next) = collapse.ask(get(1, b"a"), 2, at(2)) else {
        panic!("a doomed flight is not joined")
    };
    assert!(matches!(collapse.ask(get(1, b"a\nvariant"), 3, at(2)), Place::Lead(_)), "nor attached to");
    let answers = collapse.settle(flight, Outcome::Passed { status: 200 }, at(3));
    assert_eq!(answers, [(0, Answer::Lead), (1, Answer::Alone)]);
    assert!(!collapse.is_marked(1, at(4)), "it says nothing about what is there now");
    assert_eq!(
        collapse.ask(get(1, b"a"), 4, at(4)),
        Place::Wait(next),
        "the end of a doomed flight takes no other along"
    );
}

/// RFC 9111 §4.2.4: what is stale when its content still comes is not for those who came after its head.
#[test]
fn a_closed_flight_makes_room_for_another_and_is_stored_all_the_same() {
    let (mut collapse, flight) = flying(1);
    collapse.settle(flight, kept(""), at(1));
    collapse.close(flight);
    assert!(!collapse.is_doomed(flight));
    let Place::Lead(next) = collapse.ask(get(1, b"a"), 2, at(2)) else { panic!("nobody attaches") };
    collapse.end(flight);
    assert_eq!(collapse.ask(get(1, b"a"), 3, at(3)), Place::Wait(next));
}

/// RFC 9111 §4.1: the names of a response that is arriving select a key before it is stored.
#[test]
fn an_arriving_response_tells_by_what_it_varies() {
    let (mut collapse, flight) = flying(1);
    assert_eq!(collapse.names(1, b"a"), None);
    let variant = get(1, b"a\naccept\nx");
    collapse.rekey(flight, variant.selected, variant.key);
    collapse.settle(flight, kept("accept"), at(1));
    assert_eq!(collapse.names(1, b"a"), Some("accept"));
    assert_eq!((collapse.names(1, b"b"), collapse.names(2, b"a")), (None, None));
    assert_eq!(collapse.ask(variant, 2, at(1)), Place::Attach(flight, 2));
    let Place::Lead(other) = collapse.ask(get(1, b"a\naccept\ny"), 3, at(1)) else {
        panic!("another variant")
    };
    collapse.end(flight);
    assert_eq!(collapse.names(1, b"a"), None);
    collapse.settle(other, kept("accept"), at(2));
    assert_eq!(collapse.names(1, b"a"), Some("accept"));
}

#[test]
fn of_two_flights_that_turn_out_to_be_one_variant_the_older_is_joined() {
    let mut collapse = Collapse::new(LIMITS);
    let variant = get(1, b"a\nvariant");
    let Place::Lead(older) = collapse.ask(variant, 0, at(0)) else { panic!() };
    let Place::Lead(newer) = collapse.ask(get(1, b"a"), 1, at(0)) else { panic!() };
    collapse.rekey(newer, variant.selected, variant.key);
    assert_eq!(collapse.ask(variant, 2, at(0)), Place::Wait(older));
    collapse.settle(newer, kept("x"), at(1));
    collapse.end(newer);
    assert_eq!(collapse.ask(variant, 3, at(1)), Place::Wait(older));
}

/// I-22: what a rule closed before its head came stays closed.
#[test]
fn a_closed_flight_is_not_joined_under_another_key() {
    let (mut collapse, flight) = flying(1);
    collapse.close(flight);
    let variant = get(1, b"a\naccept\nx");
    collapse.rekey(flight, variant.selected, variant.key);
    assert_eq!(collapse.joinable(&variant), None);
    let answers = collapse.settle(flight, kept("accept"), at(1));
    assert_eq!(answers.len(), 2, "those who were there before are answered");
    assert!(matches!(collapse.ask(variant, 2, at(1)), Place::Lead(next) if next != flight));
}

#[test]
fn late_flights_touch_nothing() {
    let (mut collapse, flight) = flying(0);
    collapse.settle(flight, Outcome::Failed, at(1));
    let Place::Lead(next) = collapse.ask(get(1, b"a"), 1, at(2)) else { panic!() };
    assert!(collapse.settle(flight, kept(""), at(3)).is_empty());
    collapse.rekey(flight, 7, b"x");
    collapse.end(flight);
    assert!(collapse.is_doomed(flight) && !collapse.is_doomed(next));
    collapse.settle(next, kept(""), at(4));
    assert!(collapse.settle(next, Outcome::Failed, at(5)).is_empty(), "settled once");
    assert_eq!(collapse.ask(get(1, b"a"), 2, at(6)), Place::Attach(next, 2));
}

#[derive(Clone, Debug)]
enum Operation {
    Ask { primary: u8, variant: u8, wants: Wants },
    Begin { primary: u8, variant: u8 },
    Rekey { flight: usize, variant: u8 },
    Settle { flight: usize, outcome: Outcome },
    Close { flight: usize },
    End { flight: usize },
    Invalidate { primary: u8 },
    Leave { flight: usize, modulus: u32 },
    Mark { primary: u8 },
    Pass { millis: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let wants = prop_oneof![4 => Just(Wants::LeadOrFollow), 1 => Just(Wants::FollowOnly)];
    let shared = || prop_oneof![3 => Just(Shared::WithAll), 1 => Just(Shared::LeaderOnly)];
    let outcome = prop_oneof![
        4 => (shared(), any::<bool>()).prop_map(|(shared, varies)| Outcome::Kept { names: if varies { "x" } else { "" }.into(), shared }),
        1 => shared().prop_map(Outcome::Confirmed),
        2 => prop_oneof![Just(200), Just(503)].prop_map(|status| Outcome::Passed { status }),
        1 => Just(Outcome::Stale),
        1 => Just(Outcome::Failed),
    ];
    let flight = || 0_usize..12;
    prop_oneof![
        12 => (0_u8..3, 0_u8..3, wants).prop_map(|(primary, variant, wants)| Operation::Ask { primary, variant, wants }),
        1 => (0_u8..3, 0_u8..3).prop_map(|(primary, variant)| Operation::Begin { primary, variant }),
        1 => (flight(), 0_u8..3).prop_map(|(flight, variant)| Operation::Rekey { flight, variant }),
        5 => (flight(), outcome).prop_map(|(flight, outcome)| Operation::Settle { flight, outcome }),
        1 => flight().prop_map(|flight| Operation::Close { flight }),
        3 => flight().prop_map(|flight| Operation::End { flight }),
        1 => (0_u8..3).prop_map(|primary| Operation::Invalidate { primary }),
        1 => (flight(), 1_u32..4).prop_map(|(flight, modulus)| Operation::Leave { flight, modulus }),
        1 => (0_u8..3).prop_map(|primary| Operation::Mark { primary }),
        2 => (1_u64..800).prop_map(|millis| Operation::Pass { millis }),
    ]
}

/// A flight as the model sees it; it stays in the list when it is over.
#[derive(Debug)]
struct Flown {
    id: FlightId,
    primary: u8,
    key: Vec<u8>,
    waiters: Vec<u32>,
    settled: bool,
    over: bool,
    doomed: bool,
    /// Its head is due, or there and for all; and no other flies for its key.
    joinable: bool,
}

/// Every flight there ever was, newest last.
#[derive(Debug, Default)]
struct Model {
    flights: Vec<Flown>,
    next: u32,
    marked: [Option<u64>; 3],
}

impl Model {
    fn joinable(&mut self, key: &[u8]) -> Option<&mut Flown> {
        let mut found: Vec<_> = self
            .flights
            .iter_mut()
            .filter(|flight| flight.joinable && !flight.doomed && flight.key == key)
            .collect();
        assert!(found.len() <= 1, "two flights for one key");
        found.pop()
    }

    fn begun(&mut self, id: FlightId, primary: u8, key: Vec<u8>, waiters: Vec<u32>) {
        assert!(self.flights.iter().all(|flight| flight.id != id), "numbers are used once");
        self.flights.push(Flown {
            id,
            primary,
            key,
            waiters,
            settled: false,
            over: false,
            doomed: false,
            joinable: true,
        });
    }

    /// One of the flights, counted from the newest.
    fn pick(&mut self, back: usize) -> Option<&mut Flown> {
        self.flights.iter_mut().rev().nth(back)
    }
}

fn key(primary: u8, variant: u8) -> Vec<u8> {
    vec![b'p', primary, b'\n', variant]
}

fn run(operations: Vec<Operation>) {
    let limits = Limits { waiters_max: 10, marks_max: 2, mark_millis: 1000 };
    let mut collapse: Collapse<u32> = Collapse::new(limits);
    let mut model = Model::default();
    let mut millis = 0;
    for operation in operations {
        step(&mut collapse, &mut model, &mut millis, &limits, operation);
        let waiting: usize = model.flights.iter().map(|flight| flight.waiters.len()).sum();
        assert_eq!(collapse.waiting(), waiting);
        assert!(waiting <= limits.waiters_max);
        assert_eq!(collapse.flights(), model.flights.iter().filter(|flight| !flight.over).count());
        assert!(collapse.marks.len() <= limits.marks_max);
        for flight in &model.flights {
            assert_eq!(collapse.is_doomed(flight.id), flight.doomed || flight.over);
        }
        for primary in 0..3_u8 {
            let holds = collapse.is_marked(u128::from(primary), at(millis));
            assert!(
                !holds || model.marked[usize::from(primary)].is_some_and(|until| millis < until),
                "a mark out of nothing"
            );
        }
    }
    // Everything drains: whoever still waits is answered when its flight is settled.
    for flight in &mut model.flights {
        let answered = collapse.settle(flight.id, Outcome::Failed, at(millis));
        assert_eq!(answered.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), flight.waiters);
        collapse.end(flight.id);
    }
    assert_eq!((collapse.flights(), collapse.waiting()), (0, 0));
    assert!(collapse.joinable.is_empty() && collapse.newest.is_empty());
}

fn step(
    collapse: &mut Collapse<u32>,
    model: &mut Model,
    millis: &mut u64,
    limits: &Limits,
    operation: Operation,
) {
    let until = *millis + limits.mark_millis;
    match operation {
        Operation::Ask { primary, variant, wants } => {
            let waiter = model.next;
            model.next += 1;
            let key = key(primary, variant);
            let waiting = collapse.waiting();
            let marked = collapse.is_marked(u128::from(primary), at(*millis));
            let asked = Asked { wants, ..get(u128::from(primary), &key) };
            match (collapse.ask(asked, waiter, at(*millis)), model.joinable(&key)) {
                (Place::Lead(id), None) => {
                    assert!(!marked && wants == Wants::LeadOrFollow && waiting < limits.waiters_max);
                    model.begun(id, primary, key, vec![waiter]);
                }
                (Place::Wait(id), Some(flight)) => {
                    assert!(id == flight.id && !flight.settled && !marked && waiting < limits.waiters_max);
                    flight.waiters.push(waiter);
                }
                (Place::Attach(id, back), Some(flight)) => {
                    assert!(id == flight.id && flight.settled && back == waiter);
                }
                (Place::Alone(back), flight) => {
                    assert!(back == waiter && (marked || (flight.is_none() && wants == Wants::FollowOnly)));
                }
                (Place::Full(back), _) => assert!(back == waiter && waiting == limits.waiters_max),
                (place, flight) => panic!("{place:?} where {flight:?} flies"),
            }
        }
        Operation::Begin { primary, variant } => {
            let key = key(primary, variant);
            match (collapse.begin(get(u128::from(primary), &key)), model.joinable(&key)) {
                (Some(id), None) => model.begun(id, primary, key, Vec::new()),
                (None, Some(_)) => {}
                (begun, flight) => panic!("{begun:?} where {flight:?} flies"),
            }
        }
        Operation::Rekey { flight, variant } => {
            let Some((id, primary)) =
                model.pick(flight).filter(|flight| !flight.settled).map(|it| (it.id, it.primary))
            else {
                return;
            };
            let key = key(primary, variant);
            collapse.rekey(id, get(0, &key).selected, &key);
            let free = model.joinable(&key).is_none_or(|flight| flight.id == id);
            if let Some(flight) = model.pick(flight) {
                flight.joinable &= free;
                flight.key = key;
            }
        }
        Operation::Settle { flight, outcome } => {
            let Some(flight) = model.pick(flight) else { return };
            let told = collapse.settle(flight.id, outcome.clone(), at(*millis));
            let waiters: Vec<u32> = told.iter().map(|(waiter, _)| *waiter).collect();
            assert_eq!(waiters, flight.waiters, "everybody who waits is answered, once");
            flight.waiters.clear();
            if flight.settled {
                return;
            }
            flight.settled = true;
            match outcome {
                Outcome::Kept { shared, .. } | Outcome::Confirmed(shared) => {
                    flight.joinable &= shared == Shared::WithAll;
                }
                Outcome::Passed { .. } | Outcome::Stale | Outcome::Failed => {
                    flight.joinable = false;
                    flight.over = true;
                }
            }
            let (marks, lifts) = match outcome.answers() {
                (Answer::Lead, follower) => (follower == Answer::Alone, follower == Answer::Follow),
                _ => (false, false),
            };
            if !flight.doomed && (marks || lifts) {
                model.marked[usize::from(flight.primary)] = if marks { Some(until) } else { None };
            }
        }
        Operation::Close { flight } => {
            let Some(flight) = model.pick(flight) else { return };
            collapse.close(flight.id);
            flight.joinable = false;
        }
        Operation::End { flight } => {
            let Some(flight) = model.pick(flight).filter(|flight| flight.settled) else { return };
            collapse.end(flight.id);
            flight.joinable = false;
            flight.over = true;
        }
        Operation::Invalidate { primary } => {
            collapse.invalidate(u128::from(primary));
            model.marked[usize::from(primary)] = None;
            for flight in &mut model.flights {
                flight.doomed |= flight.primary == primary;
            }
        }
        Operation::Leave { flight, modulus } => {
            let Some(flight) = model.pick(flight) else { return };
            collapse.leave(flight.id, |waiter| waiter % modulus == 0);
            flight.waiters.retain(|waiter| waiter % modulus != 0);
        }
        Operation::Mark { primary } => {
            collapse.mark(u128::from(primary), 0, at(*millis));
            model.marked[usize::from(primary)] = Some(until);
        }
        Operation::Pass { millis: passed } => *millis += passed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Each waiter is answered once, no key has two flights that can be joined, nobody joins a doomed one, and all counts go to zero.
    #[test]
    fn operations_in_any_order_keep_the_invariants(operations in vec(operation(), 1..120)) {
        run(operations);
    }
}
