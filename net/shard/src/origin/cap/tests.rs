//! The cap with simulated mail: any order of deliveries, and real threads over real atomics.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;

use super::{CapMessage, Gate, HOME_CORE, HomeQueue, Reclaim};

/// One core without sockets: counts instead of connections, the same moves as `pool`.
struct Member {
    core: usize,
    gate: Arc<Gate>,
    home: Option<HomeQueue>,
    idle: usize,
    offered: usize,
    busy: usize,
    tickets: BTreeSet<u64>,
    next_ticket: u64,
    served: Vec<u64>,
    /// Messages to self, handled at once.
    local: VecDeque<CapMessage>,
    out: Vec<(usize, CapMessage)>,
}

impl Member {
    fn new(core: usize, cores: usize, gate: &Arc<Gate>) -> Self {
        Member {
            core,
            gate: Arc::clone(gate),
            home: (core == HOME_CORE).then(|| HomeQueue::new(cores)),
            idle: 0,
            offered: 0,
            busy: 0,
            tickets: BTreeSet::new(),
            next_ticket: 0,
            served: Vec::new(),
            local: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// Begins a fetch; `Some(ticket)` if it has to wait.
    fn begin(&mut self) -> Option<u64> {
        if self.idle > 0 {
            self.idle -= 1;
            self.busy += 1;
            return None;
        }
        if self.gate.try_take() {
            self.busy += 1;
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket);
        self.gate.join();
        self.tell(HOME_CORE, CapMessage::Wait { core: self.core as u32, ticket });
        Some(ticket)
    }

    /// Ends a fetch whose connection the origin keeps open.
    fn finish_kept(&mut self) {
        self.busy -= 1;
        self.give_back();
    }

    /// Ends a fetch whose connection closes.
    fn finish_closed(&mut self) {
        self.busy -= 1;
        self.release();
    }

    fn cancel(&mut self, ticket: u64) {
        if self.tickets.remove(&ticket) {
            self.tell(HOME_CORE, CapMessage::Cancel { core: self.core as u32, ticket });
        }
    }

    fn give_back(&mut self) {
        if self.gate.waiting() > 0 {
            self.offered += 1;
            self.tell(HOME_CORE, CapMessage::Offer { core: self.core as u32 });
        } else {
            self.idle += 1;
        }
    }

    fn release(&mut self) {
        if self.gate.give_back() {
            self.tell(HOME_CORE, CapMessage::Freed);
        }
    }

    fn tell(&mut self, core: usize, message: CapMessage) {
        if core == self.core { self.local.push_back(message) } else { self.out.push((core, message)) }
    }

    fn deliver(&mut self, message: CapMessage) {
        self.local.push_back(message);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(message) = self.local.pop_front() {
            self.handle(message);
        }
    }

    fn handle(&mut self, message: CapMessage) {
        let answer = |outcome| CapMessage::Reclaimed { core: self.core as u32, outcome };
        match message {
            CapMessage::Grant { ticket } if self.tickets.remove(&ticket) => {
                self.served.push(ticket);
                self.busy += 1;
            }
            CapMessage::Grant { .. } => self.release(),
            CapMessage::Hand { ticket } => {
                assert!(self.offered > 0, "a connection was handed on that was not offered");
                self.offered -= 1;
                if self.tickets.remove(&ticket) {
                    self.served.push(ticket);
                    self.busy += 1;
                } else {
                    self.give_back();
                }
            }
            CapMessage::Keep => {
                self.offered -= 1;
                self.idle += 1;
            }
            CapMessage::Yield => {
                let answer = answer(Reclaim::Yielded);
                self.offered -= 1;
                self.release();
                self.tell(HOME_CORE, answer);
            }
            CapMessage::Reclaim if self.idle > 0 => {
                let answer = answer(Reclaim::Closed);
                self.idle -= 1;
                self.release();
                self.tell(HOME_CORE, answer);
            }
            CapMessage::Reclaim => {
                let answer = answer(Reclaim::NoneKept);
                self.tell(HOME_CORE, answer);
            }
            to_home => {
                let mut answers = Vec::new();
                let gate = Arc::clone(&self.gate);
                let home = self.home.as_mut().expect("messages to home go to the home core");
                home.step(&gate, to_home, |core, answer| answers.push((core, answer)));
                answers.into_iter().for_each(|(core, answer)| self.tell(core, answer));
            }
        }
    }
}

/// Cores whose mail is delivered when the test says so, in order per sender and receiver.
struct World {
    gate: Arc<Gate>,
    members: Vec<Member>,
    /// `mail[from][to]`.
    mail: Vec<Vec<VecDeque<CapMessage>>>,
    max: usize,
}

impl World {
    fn new(cores: usize, max: usize) -> Self {
        let gate = Arc::new(Gate::new(max));
        let members = (0..cores).map(|core| Member::new(core, cores, &gate)).collect();
        World { gate, members, mail: vec![vec![VecDeque::new(); cores]; cores], max }
    }

    fn with<R>(&mut self, core: usize, act: impl FnOnce(&mut Member) -> R) -> R {
        let result = act(&mut self.members[core]);
        self.members[core].settle();
        for (to, message) in std::mem::take(&mut self.members[core].out) {
            self.mail[core][to].push_back(message);
        }
        assert!(self.gate.open() <= self.max, "more open than the cap allows");
        result
    }

    /// Delivers the oldest message between two cores; tells whether there was one.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self.mail[from][to].pop_front() else { return false };
        self.with(to, |member| member.deliver(message));
        true
    }

    fn deliver_all(&mut self) {
        let cores = self.members.len();
        let pairs = (0..cores * cores).map(|pair| (pair / cores, pair % cores)).collect::<Vec<_>>();
        while pairs.iter().any(|(from, to)| self.deliver(*from, *to)) {}
    }

    fn in_line(&self) -> usize {
        self.members[HOME_CORE].home.as_ref().map_or(0, HomeQueue::len)
    }
}

/// A small generator, so that a failing run can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn a_free_place_needs_no_message() {
    let mut world = World::new(2, 2);
    assert_eq!(world.with(1, Member::begin), None);
    assert_eq!(world.with(1, Member::begin), None);
    assert!(world.mail.iter().flatten().all(VecDeque::is_empty));
    assert_eq!(world.gate.open(), 2);
}

#[test]
fn waiters_are_served_first_in_first_out() {
    let mut world = World::new(1, 1);
    assert_eq!(world.with(0, Member::begin), None);
    let tickets: Vec<_> = (0..4).map(|_| world.with(0, Member::begin).expect("the cap is reached")).collect();
    for turn in 0..4 {
        world.with(0, if turn % 2 == 0 { Member::finish_closed } else { Member::finish_kept });
    }
    assert_eq!(world.members[0].served, tickets);
    assert_eq!(world.gate.waiting(), 0);
}

#[test]
fn nobody_passes_the_line() {
    let mut world = World::new(2, 1);
    assert_eq!(world.with(0, Member::begin), None);
    assert!(world.with(1, Member::begin).is_some(), "core 1 waits");
    world.with(0, Member::finish_closed);
    // The place is free, or promised, and core 1's message has not even arrived.
    assert!(world.with(0, Member::begin).is_some(), "core 0 must get in line behind core 1");
    world.deliver_all();
    world.deliver_all();
    assert_eq!(world.members[0].busy + world.members[1].busy, 1);
}

#[test]
fn a_wait_that_crosses_a_release_is_not_lost() {
    let mut world = World::new(2, 1);
    assert_eq!(world.with(0, Member::begin), None);
    let ticket = world.with(1, Member::begin).expect("the cap is reached");
    // Core 0 gives back before `Wait` arrives.
    world.with(0, Member::finish_closed);
    world.deliver_all();
    assert_eq!(world.members[1].served, [ticket]);
}

#[test]
fn a_kept_connection_of_another_core_is_closed_for_a_waiter() {
    let mut world = World::new(3, 1);
    assert_eq!(world.with(2, Member::begin), None);
    world.with(2, Member::finish_kept);
    assert_eq!(world.members[2].idle, 1);
    let ticket = world.with(1, Member::begin).expect("the cap is reached");
    world.deliver_all();
    assert_eq!(world.members[1].served, [ticket]);
    assert_eq!((world.members[2].idle, world.gate.open()), (0, 1));
}

#[test]
fn a_finished_connection_stays_open_for_the_next_waiter_of_its_core() {
    let mut world = World::new(2, 1);
    assert_eq!(world.with(1, Member::begin), None);
    let ticket = world.with(1, Member::begin).expect("the cap is reached");
    world.deliver_all();
    world.with(1, Member::finish_kept);
    assert_eq!(world.members[1].offered, 1);
    world.deliver_all();
    assert_eq!(world.members[1].served, [ticket]);
    assert_eq!((world.members[1].offered, world.gate.open()), (0, 1));
}

#[test]
fn a_grant_for_a_waiter_that_left_goes_on() {
    let mut world = World::new(2, 1);
    assert_eq!(world.with(0, Member::begin), None);
    let left = world.with(1, Member::begin).expect("the cap is reached");
    let stays = world.with(1, Member::begin).expect("the cap is reached");
    world.deliver(1, 0);
    world.deliver(1, 0);
    world.with(0, Member::finish_closed);
    // The grant is on its way when the waiter leaves.
    world.with(1, |member| member.cancel(left));
    world.deliver_all();
    assert_eq!(world.members[1].served, [stays]);
    world.with(1, Member::finish_closed);
    world.deliver_all();
    assert_eq!((world.gate.open(), world.gate.waiting()), (0, 0));
}

#[test]
fn any_order_of_mail_serves_every_waiter() {
    for seed in 1..=4_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let cores = 1 + random.below(4);
        let mut world = World::new(cores, 1 + random.below(4));
        let mut begun = 0;
        for _ in 0..300 {
            let core = random.below(cores);
            match random.below(10) {
                0..=2 => {
                    begun += usize::from(world.with(core, Member::begin).is_some());
                }
                3..=4 if world.members[core].busy > 0 => world.with(core, Member::finish_kept),
                5 if world.members[core].busy > 0 => world.with(core, Member::finish_closed),
                6 => {
                    let ticket = world.members[core].tickets.first().copied();
                    if let Some(ticket) = ticket {
                        world.with(core, |member| member.cancel(ticket));
                        begun -= 1;
                    }
                }
                _ => {
                    let from = random.below(cores);
                    world.deliver(from, core);
                }
            }
            if random.below(20) == 0 {
                world.deliver_all();
                let kept: usize = world.members.iter().map(|member| member.idle).sum();
                assert!(
                    world.in_line() == 0 || kept == 0,
                    "seed {seed}: one waits while another core keeps one"
                );
            }
        }
        // Kept connections never time out here: only the protocol can free them.
        loop {
            world.deliver_all();
            let Some(core) = (0..cores).find(|core| world.members[*core].busy > 0) else { break };
            world.with(core, Member::finish_kept);
        }
        let served: usize = world.members.iter().map(|member| member.served.len()).sum();
        assert_eq!(served, begun, "seed {seed}: somebody waits for ever");
        assert_eq!((world.gate.waiting(), world.in_line()), (0, 0), "seed {seed}");
        let held: usize = world.members.iter().map(|member| member.idle + member.offered).sum();
        assert_eq!(world.gate.open(), held, "seed {seed}: a place was lost or made up");
        assert!(
            world.members.iter().all(|member| member.offered == 0),
            "seed {seed}: an offer was not answered"
        );
    }
}

/// How cores on threads of their own use the cap.
#[derive(Clone, Copy)]
struct Load {
    cores: usize,
    max: usize,
    fetches: usize,
    /// Fetches of one core that wait at once.
    waiting: usize,
    /// Of four fetches, how many end with a closed connection.
    closed_of_four: usize,
}

#[test]
fn threads_lose_no_wake_up() {
    run_threads(Load { cores: 3, max: 2, fetches: 20_000, waiting: 3, closed_of_four: 1 });
}

/// One place, one fetch at a time: nothing but the wake-up itself can free a waiter.
#[test]
fn a_single_place_is_passed_on_for_ever() {
    run_threads(Load { cores: 2, max: 1, fetches: 50_000, waiting: 1, closed_of_four: 4 });
}

fn run_threads(load: Load) {
    let gate = Arc::new(Gate::new(load.max));
    let mail: Arc<Vec<SegQueue<CapMessage>>> = Arc::new((0..load.cores).map(|_| SegQueue::new()).collect());
    let running = Arc::new(AtomicUsize::new(load.cores));
    let most = Arc::new(AtomicUsize::new(0));
    let threads = (0..load.cores).map(|core| {
        let (gate, mail, running, most) = (gate.clone(), mail.clone(), running.clone(), most.clone());
        std::thread::spawn(move || run_core(core, load, &gate, &mail, &running, &most))
    });
    let threads = threads.collect::<Vec<_>>();
    let waited: usize = threads.into_iter().map(|thread| thread.join().expect("no core panics")).sum();
    assert!(waited > 0, "the cap was never reached: the test shows nothing");
    assert_eq!(most.load(Ordering::SeqCst), load.max);
}

fn run_core(
    core: usize,
    load: Load,
    gate: &Arc<Gate>,
    mail: &[SegQueue<CapMessage>],
    running: &AtomicUsize,
    most: &AtomicUsize,
) -> usize {
    let start = Instant::now();
    let mut member = Member::new(core, load.cores, gate);
    let mut random = Random(core as u64 + 1);
    let mut begun = 0;
    let mut is_done = false;
    // A core goes on reading its mail until all cores are done.
    while running.load(Ordering::SeqCst) > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "core {core} waits for ever after {begun}");
        while let Some(message) = mail[core].pop() {
            member.deliver(message);
        }
        if begun < load.fetches && member.tickets.len() < load.waiting {
            begun += 1;
            member.begin();
        } else if member.busy == 0 {
            std::thread::yield_now();
        }
        most.fetch_max(gate.open(), Ordering::SeqCst);
        if member.busy > 0 && (random.below(3) > 0 || begun == load.fetches) {
            if random.below(4) < load.closed_of_four { member.finish_closed() } else { member.finish_kept() }
        }
        member.settle();
        for (to, message) in std::mem::take(&mut member.out) {
            mail[to].push(message);
        }
        if !is_done && begun == load.fetches && member.busy == 0 && member.tickets.is_empty() {
            is_done = true;
            running.fetch_sub(1, Ordering::SeqCst);
        }
    }
    member.served.len()
}
