//! The machine against a model: two processes, a store, and a network that delays and loses.

use super::*;
use proptest::prelude::*;

const LEASE: Duration = Duration::from_millis(300);

/// A record as the model's store keeps it.
#[derive(Debug, Clone)]
struct Stored {
    holder: usize,
    token: u64,
    floor: u64,
}

/// A request between a process and the store.
#[derive(Debug, Clone)]
enum Request {
    Read,
    Write { revision: u64, record: Stored },
}

#[derive(Debug)]
struct Process {
    /// Its name; a process that starts anew gets a new one.
    me: usize,
    machine: Machine,
    token: u64,
    floor: u64,
    /// The record read last: what a taker continues from.
    read: Option<Stored>,
    next: Event,
    wakes: Instant,
    under_way: Option<Request>,
    answer: Option<Event>,
    /// Writes nobody waits for any more; they may still be stored.
    late: Vec<Request>,
}

#[derive(Debug)]
struct World {
    now: Instant,
    revision: u64,
    record: Option<Stored>,
    /// The record at each revision before.
    history: Vec<Option<Stored>>,
    /// Whether it has lost any: a revision may be given again then, and a floor go back.
    has_lost: bool,
    processes: Vec<Process>,
}

#[derive(Debug, Clone)]
enum Happening {
    TimePasses(u64),
    ProcessRuns(usize),
    RequestArrives(usize),
    RequestIsGivenUp(usize),
    LateRequestArrives(usize),
    /// The store loses so many of its last records.
    EndIsLost(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1u64..40).prop_map(Happening::TimePasses),
        1 => (200u64..700).prop_map(Happening::TimePasses),
        6 => (0..2usize).prop_map(Happening::ProcessRuns),
        6 => (0..2usize).prop_map(Happening::RequestArrives),
        1 => (0..2usize).prop_map(Happening::RequestIsGivenUp),
        1 => (0..2usize).prop_map(Happening::LateRequestArrives),
    ]
}

impl World {
    fn new() -> World {
        let now = Instant::now();
        let process = |me: usize| Process {
            me,
            machine: Machine::new(me.to_string(), LEASE),
            token: 0,
            floor: 0,
            read: None,
            next: Event::Tick { dirty: false },
            wakes: now,
            under_way: None,
            answer: None,
            late: Vec::new(),
        };
        let processes = vec![process(0), process(1)];
        World {
            now,
            revision: 0,
            record: None,
            history: Vec::new(),
            has_lost: false,
            processes,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::TimePasses(ms) => self.now += Duration::from_millis(ms),
            Happening::ProcessRuns(at) => self.run(at),
            Happening::RequestArrives(at) => {
                if let Some(request) = self.processes[at].under_way.take() {
                    let answer = self.serve(at, request);
                    self.processes[at].answer = Some(answer);
                }
            }
            Happening::RequestIsGivenUp(at) => {
                let process = &mut self.processes[at];
                if let Some(request) = process.under_way.take() {
                    process.late.push(request);
                    process.answer = Some(Event::Unclear);
                }
            }
            Happening::LateRequestArrives(at) => {
                if !self.processes[at].late.is_empty() {
                    let request = self.processes[at].late.remove(0);
                    self.serve(at, request);
                }
            }
            Happening::EndIsLost(records) => {
                let kept = self.history.len().saturating_sub(records);
                if let Some(record) = self.history.drain(kept..).next() {
                    self.has_lost = true;
                    self.revision = kept as u64;
                    self.record = record;
                }
            }
        }
    }

    fn serve(&mut self, at: usize, request: Request) -> Event {
        match request {
            Request::Read => {
                self.processes[at].read = self.record.clone();
                let record = self.record.as_ref().map(|stored| SeenRecord {
                    holder: stored.holder.to_string(),
                    held: true,
                    lease: LEASE,
                });
                Event::Seen(Seen {
                    revision: self.revision,
                    record,
                })
            }
            Request::Write { revision, .. } if revision != self.revision => Event::Unclear,
            Request::Write { record, .. } => {
                if let Some(old) = self.record.as_ref().filter(|_| !self.has_lost) {
                    assert!(record.floor >= old.floor, "the floor went back");
                    assert!(record.token > old.token || record.holder == old.holder);
                }
                self.revision += 1;
                self.history.push(self.record.replace(record));
                Event::Stored {
                    revision: self.revision,
                }
            }
        }
    }

    fn run(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let Some(answer) = process.answer.take() {
            process.next = answer;
        } else if process.under_way.is_some() || self.now < process.wakes {
            return;
        }
        let event = std::mem::replace(&mut process.next, Event::Tick { dirty: true });
        match process.machine.step(&event, self.now) {
            Command::Read => process.under_way = Some(Request::Read),
            Command::Wait(pause) => process.wakes = self.now + pause,
            Command::Stop => {
                process.me += 2;
                process.machine = Machine::new(process.me.to_string(), LEASE);
            }
            Command::Write { revision, take } => {
                if take {
                    process.token = process.read.as_ref().map_or(0, |read| read.token) + 1;
                    process.floor = process.read.as_ref().map_or(0, |read| read.floor);
                } else {
                    process.floor += 1;
                }
                let record = Stored {
                    holder: process.me,
                    token: process.token,
                    floor: process.floor,
                };
                process.under_way = Some(Request::Write { revision, record });
            }
        }
    }

    fn holders(&self) -> usize {
        let valid = |process: &&Process| {
            process
                .machine
                .valid_until()
                .is_some_and(|end| end > self.now)
        };
        self.processes.iter().filter(valid).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn there_are_never_two_holders_and_the_floor_never_goes_back(
        happenings in proptest::collection::vec(happening(), 0..400),
    ) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening);
            prop_assert!(world.holders() <= 1, "{world:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A server that loses its power loses what it had not synced, leases too.
    #[test]
    fn whatever_the_store_has_lost_somebody_holds_the_lease_in_the_end(
        happenings in proptest::collection::vec(
            prop_oneof![20 => happening(), 1 => (1usize..9).prop_map(Happening::EndIsLost)], 0..400),
    ) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening);
        }
        for _ in 0..400 {
            for at in 0..2 {
                world.happen(Happening::ProcessRuns(at));
                world.happen(Happening::RequestArrives(at));
            }
            world.happen(Happening::TimePasses(10));
        }
        prop_assert_eq!(world.holders(), 1, "{:#?}", world);
    }
}

#[test]
fn a_lease_whose_holder_is_silent_is_taken_after_its_time_and_not_before() {
    let start = Instant::now();
    let mut machine = Machine::new("me".to_owned(), LEASE);
    let record = SeenRecord {
        holder: "other".to_owned(),
        held: true,
        lease: LEASE,
    };
    let seen = Event::Seen(Seen {
        revision: 7,
        record: Some(record),
    });
    assert!(matches!(machine.step(&seen, start), Command::Wait(_)));
    let early = start + LEASE - Duration::from_millis(1);
    assert!(matches!(machine.step(&seen, early), Command::Wait(_)));
    let take = Command::Write {
        revision: 7,
        take: true,
    };
    assert_eq!(machine.step(&seen, start + LEASE), take);
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let mut machine = Machine::new("me".to_owned(), LEASE);
    let record = SeenRecord {
        holder: "other".to_owned(),
        held: false,
        lease: LEASE,
    };
    let seen = Event::Seen(Seen {
        revision: 7,
        record: Some(record),
    });
    let take = Command::Write {
        revision: 7,
        take: true,
    };
    assert_eq!(machine.step(&seen, Instant::now()), take);
}
