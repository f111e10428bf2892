//! Nothing that many ask at once holds the core: each turn takes a part and looks at everybody else before the next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use aspis_runtime::CoreOptions;
use aspis_runtime::limits::{PROBE_COMPLETIONS, PROBE_INTERVAL, TASKS_PER_TURN};
use aspis_runtime::sync::Notify;

use crate::harness::*;

const CROWD: usize = 2000;

/// Turns take turns: a crowd that waits for the same thing is woken in its order, a portion in each turn.
#[test]
fn a_crowd_that_is_woken_at_once_runs_in_portions_and_in_order() {
    let core = TestCore::start(Hooks::default);
    let (order, stats) = core.block(|ring| async move {
        let (wake, order) = (Rc::new(Notify::new()), Rc::new(RefCell::new(Vec::new())));
        for number in 0..CROWD {
            let (wake, order) = (wake.clone(), order.clone());
            ring.spawn(async move {
                wake.notified().await;
                order.borrow_mut().push(number);
            });
        }
        while wake.waiter_count() < CROWD {
            aspis_runtime::future::yield_now().await;
        }
        let before = ring.stats();
        wake.notify_all();
        while order.borrow().len() < CROWD {
            aspis_runtime::future::yield_now().await;
        }
        let after = ring.stats();
        (order.take(), (before, after))
    });
    assert_eq!(order, (0..CROWD).collect::<Vec<_>>(), "first woken, first run");
    let (before, after) = stats;
    assert!(after.tasks_run_max <= TASKS_PER_TURN as u64, "{}", after.tasks_run_max);
    let turns = (after.turns - before.turns) as usize;
    assert!(turns >= CROWD / TASKS_PER_TURN, "{turns} turns");
}

/// Bytes of a viewer are answered while a crowd still runs, not behind it.
#[test]
fn bytes_are_looked_at_between_the_portions_of_a_crowd() {
    let core = TestCore::start(|| Hooks {
        accept: Box::new(|ring, (_, socket, _)| ring.receive(socket)),
        receive: Box::new(|ring, socket, bytes| {
            ring.send_owned(socket, bytes.to_vec());
        }),
        ..Hooks::default()
    });
    let mut client = connect(core.listen());
    assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    // Tasks that never end wake each other for ever: whatever is answered now is answered between them.
    let (stop, stopped) = mpsc::channel();
    core.call(move |ring| {
        let goes_on = Rc::new(Cell::new(true));
        for _ in 0..CROWD {
            let goes_on = goes_on.clone();
            ring.spawn(async move {
                while goes_on.get() {
                    aspis_runtime::future::yield_now().await;
                }
            });
        }
        let ring_again = ring.clone();
        ring.spawn(async move {
            while stopped.try_recv().is_err() {
                ring_again.sleep(Duration::from_millis(1)).await;
            }
            goes_on.set(false);
        });
    });
    for _ in 0..20 {
        let before = core.call(|ring| ring.stats());
        assert_eq!(round_trip(&mut client, b"ping"), b"ping");
        let after = core.call(|ring| ring.stats());
        let (tasks, turns) = (after.tasks_run - before.tasks_run, after.turns - before.turns);
        assert!(tasks <= (turns + 1) * TASKS_PER_TURN as u64, "{tasks} tasks ran in {turns} turns");
    }
    stop.send(()).unwrap();
    core.wait_until("all have ended", |ring| ring.live_tasks() == 1);
}

/// A busy core measures how late it is, one that is asked little does not wake for it.
#[test]
fn only_a_busy_core_measures_how_late_it_is() {
    let options = CoreOptions { tick_max: Duration::from_secs(5), ..CoreOptions::default() };
    let core = TestCore::with_options(options, || Hooks {
        receive: Box::new(|ring, socket, bytes| {
            ring.send_owned(socket, bytes.to_vec());
        }),
        ..Hooks::default()
    });
    let mut client = connect(core.listen());
    for _ in 0..10 {
        assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    }
    pause(3 * PROBE_INTERVAL);
    assert_eq!(core.call(|ring| ring.stats().ticks), 0);
    // Enough of them, and then time for the measurement.
    for _ in 0..2 * PROBE_COMPLETIONS {
        assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    }
    pause(3 * PROBE_INTERVAL);
    let ticks = core.call(|ring| ring.stats().ticks);
    assert!(ticks > 0, "the load was measured");
    pause(3 * PROBE_INTERVAL);
    assert!(core.call(|ring| ring.stats().ticks) <= ticks + 1, "and the rest after it is not");
}
