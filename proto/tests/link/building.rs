//! How a robot comes to know its building: over good links and bad ones, in parts, and when it changes.

use std::time::Duration;

use brrbrr_proto::building::{
    Building, MAX_BUILDING_BYTES, MAX_PART_BYTES, Offer, PART_BYTES, Shared,
};
use brrbrr_proto::down::{Down, NoBuilding, Part};
use brrbrr_proto::id::{ConnectionId, Revision, SessionId};
use brrbrr_proto::link::gateway::{BuildingNews, Output};
use brrbrr_proto::link::relay::{BuildingAnswer, Output as FromRelay};
use brrbrr_proto::link::{Gateway, Relay};
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Up, Wanted};

use crate::loads::{SESSION, UP, loading, now};
use crate::pair::{Pair, UpFrame, at, drain, drain_relay, hello_in, itself, places, welcome};

const SECOND: Duration = Duration::from_secs(1);

fn questions(pair: &Pair) -> Vec<Wanted> {
    let asked = pair.sent_up.iter().filter_map(|(_, frame)| match frame {
        UpFrame::Up(Up::Wanted(wanted)) => Some(*wanted),
        _ => None,
    });
    asked.collect()
}

#[track_caller]
fn assert_up_to_date(pair: &Pair) {
    let (_, building) = pair.building.as_ref().expect("a building");
    let (places, robot) = &pair.catalog;
    assert_eq!((&building.places, &building.robot), (places, robot));
}

#[test]
fn a_robot_has_its_building_seconds_after_its_first_session() {
    let mut pair = Pair::new();
    pair.catalog.0 = places(1000);
    pair.connect();
    pair.pass(3 * SECOND);
    assert_up_to_date(&pair);
    let parts = questions(&pair).len();
    assert!(parts > 5, "{parts}");
    let is_small = |down: &Down| match down {
        Down::Building(part) => part.bytes.len() <= PART_BYTES,
        _ => true,
    };
    assert!(pair.sent_down.iter().all(|(_, down)| is_small(down)));
}

#[test]
fn a_building_that_is_known_is_not_sent_again() {
    let mut pair = Pair::connected();
    pair.catalog.0 = places(1000);
    pair.pass(10 * SECOND);
    pair.sent_down.clear();
    pair.sent_up.clear();
    pair.restart_gateway();
    pair.restart_relay();
    pair.pass(3600 * SECOND);
    let bytes = pair.sent_down.iter().map(|(_, down)| match down {
        Down::Building(part) => part.bytes.len(),
        _ => 0,
    });
    assert_eq!(bytes.sum::<usize>(), 0);
    // Now and then it is asked for all the same: a relay's word may have been lost.
    let asked = questions(&pair).len();
    assert!((12..=18).contains(&asked), "{asked} questions in an hour");
    assert_eq!(usize::try_from(pair.confirmed).ok(), Some(asked));
}

#[test]
fn a_change_arrives_within_seconds_and_is_told_of_once() {
    let mut pair = Pair::connected();
    pair.pass(10 * SECOND);
    pair.catalog.0 = places(3);
    pair.relay.handle_building_changed();
    pair.settle();
    pair.pass(3 * SECOND);
    assert_up_to_date(&pair);
    let asked = questions(&pair).len();
    pair.relay.handle_building_changed();
    pair.settle();
    pair.pass(30 * SECOND);
    assert_eq!(questions(&pair).len(), asked, "nothing had changed");
    pair.catalog.1 = itself(8);
    pair.relay.handle_building_changed();
    pair.settle();
    pair.pass(3 * SECOND);
    assert_up_to_date(&pair);
}

#[test]
fn a_question_that_comes_during_a_look_for_news_is_answered_after_it() {
    let mut relay = loading();
    let revision = Revision(7);
    let wanted = Up::Wanted(Wanted {
        session: SESSION,
        sent: Uptime::default(),
        have: Some(revision),
        part: 0,
    });
    let answers = |relay: &mut Relay| {
        let outputs = drain_relay(relay).into_iter();
        let answers = outputs.filter(|output| match output {
            FromRelay::Send(_, Down::Building(part)) => part.revision == revision,
            _ => false,
        });
        answers.count()
    };
    let newest = || Some(BuildingAnswer::Newest(revision));
    relay.handle_up(UP, wanted.clone(), now(Duration::ZERO));
    relay.handle_building(SESSION, newest());
    assert_eq!(answers(&mut relay), 1);
    relay.handle_building_changed();
    relay.handle_up(UP, wanted, now(SECOND));
    relay.handle_building(SESSION, newest());
    assert_eq!(answers(&mut relay), 0, "there is no news");
    relay.handle_building(SESSION, newest());
    assert_eq!(answers(&mut relay), 1, "the question");
}

#[test]
fn a_robot_that_never_asked_is_told_nothing() {
    let mut pair = Pair::connected();
    pair.relay.handle_building_changed();
    pair.settle();
    let is_told = |(_, down): &(_, Down)| matches!(down, Down::Building(_));
    assert!(!pair.sent_down.iter().any(is_told));
}

#[test]
fn a_change_on_the_way_leads_to_the_newer_one_even_where_that_is_shorter() {
    for count in [1, 900, 2000] {
        let mut pair = Pair::new();
        pair.catalog.0 = places(1000);
        pair.connect();
        while questions(&pair).len() < 4 {
            pair.pass(Duration::from_millis(1));
        }
        pair.catalog.0 = places(count);
        pair.pass(10 * SECOND);
        assert_up_to_date(&pair);
    }
}

#[test]
fn a_lossy_link_and_broken_sessions_only_take_longer() {
    for every in [2, 3, 5] {
        let mut pair = Pair::connected();
        pair.catalog.0 = places(1000);
        pair.loses_parts = Some(every);
        for turn in 0.. {
            pair.pass(60 * SECOND);
            if pair
                .building
                .as_ref()
                .is_some_and(|(_, b)| b.places.len() == 1000)
            {
                break;
            }
            assert!(turn < 200, "not there after {turn} minutes, {every}");
            pair.disconnect();
            pair.connect();
        }
        assert_up_to_date(&pair);
        // What had come was kept when the session broke.
        let first = questions(&pair)
            .iter()
            .filter(|asked| asked.part == 0)
            .count();
        assert!(first < 30, "began {first} times");
    }
}

/// A gateway in a session whose relay the test plays.
struct Alone {
    gateway: Gateway,
    now: Uptime,
    asked: Vec<Wanted>,
    news: Vec<BuildingNews>,
}

impl Alone {
    fn open(limit: Option<u32>) -> Self {
        let mut gateway = crate::pair::gateway(0, 1);
        if let Some(limit) = limit {
            gateway.limit_rate(limit);
        }
        gateway.handle_connected(ConnectionId(1), at(0));
        let hello = hello_in(&drain(&mut gateway)).expect("greets");
        gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(0));
        Self {
            gateway,
            now: at(0).uptime,
            asked: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Lets time pass until it asks, and says what.
    fn wait_for_question(&mut self) -> Wanted {
        let before = self.asked.len();
        for _ in 0..10_000 {
            let due = self.gateway.poll_timeout().expect("a session has timers");
            self.now = self.now.max(due);
            self.gateway.handle_timeout(self.stamp());
            self.drain();
            if self.asked.len() > before {
                return self.asked[before];
            }
            self.keep_alive();
        }
        panic!("never asks");
    }

    fn keep_alive(&mut self) {
        let ack = brrbrr_proto::down::Ack {
            session: SessionId(5),
            next: brrbrr_proto::id::Seq::FIRST,
            credit: 1000,
        };
        self.gateway.handle_down(Down::Ack(ack), self.stamp());
    }

    fn hear(&mut self, revision: Revision, part: u32, parts: u32, bytes: Vec<u8>) {
        let part = Part {
            session: SessionId(5),
            revision,
            part,
            parts,
            bytes,
        };
        self.gateway.handle_down(Down::Building(part), self.stamp());
        self.drain();
    }

    fn drain(&mut self) {
        for output in drain(&mut self.gateway) {
            match output {
                Output::Up(_, Up::Wanted(wanted)) => self.asked.push(wanted),
                Output::Building(news) => self.news.push(news),
                _ => {}
            }
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            uptime: self.now,
            ..at(0)
        }
    }
}

#[test]
fn a_relay_that_never_answers_is_asked_ever_more_rarely() {
    let mut alone = Alone::open(None);
    let mut moments = Vec::new();
    for _ in 0..10 {
        alone.wait_for_question();
        moments.push(alone.now);
    }
    let pauses: Vec<_> = moments.windows(2).map(|two| two[1].since(two[0])).collect();
    assert_eq!(pauses[0], 5 * SECOND);
    assert_eq!(pauses[2], 20 * SECOND);
    assert_eq!(pauses.last(), Some(&(300 * SECOND)));
}

#[test]
fn parts_that_no_honest_relay_sends_neither_fill_memory_nor_hurry_the_gateway() {
    let mut alone = Alone::open(None);
    assert_eq!(alone.wait_for_question().part, 0);
    let revision = Revision(9);
    for (part, parts, bytes) in [
        (1, 3, vec![1]),
        (0, u32::MAX, vec![1]),
        (3, 3, vec![1]),
        (u32::MAX, u32::MAX, vec![1]),
        (0, 3, Vec::new()),
        (0, 3, vec![1; MAX_PART_BYTES + 1]),
    ] {
        alone.hear(revision, part, parts, bytes);
    }
    assert_eq!(alone.news, []);
    // None of it was an answer.
    let before = alone.now;
    assert_eq!(alone.wait_for_question().part, 0);
    assert_eq!(alone.now.since(before), 5 * SECOND);

    // Always another revision: a pause each time.
    let before = alone.now;
    for number in 0..20 {
        let asked = alone.wait_for_question();
        alone.hear(Revision(100 + number), asked.part, 9, vec![1]);
    }
    assert!(alone.now.since(before) > 4 * SECOND);
    assert_eq!(alone.news, []);
}

#[test]
fn a_building_without_end_is_refused() {
    let mut alone = Alone::open(None);
    let parts = u32::try_from(MAX_BUILDING_BYTES / MAX_PART_BYTES).expect("small") + 1;
    let mut heard = 0;
    while alone.news.is_empty() {
        let asked = alone.wait_for_question();
        alone.hear(Revision(9), asked.part, parts, vec![1; MAX_PART_BYTES]);
        heard += 1;
        assert!(heard <= parts, "takes more than the limit");
    }
    let [BuildingNews::Refused(reason)] = alone.news.as_slice() else {
        panic!("{:?}", alone.news);
    };
    assert!(reason.contains("longer than 4194304"), "{reason}");
    let before = alone.now;
    let asked = alone.wait_for_question();
    assert_eq!((asked.part, asked.have), (0, None));
    assert!(alone.now.since(before) > 200 * SECOND);
}

#[test]
fn parts_that_do_not_make_their_revision_are_refused() {
    let mut alone = Alone::open(None);
    let asked = alone.wait_for_question();
    alone.hear(Revision(9), asked.part, 1, vec![1, 2, 3]);
    let [BuildingNews::Refused(reason)] = alone.news.as_slice() else {
        panic!("{:?}", alone.news);
    };
    assert!(reason.contains("do not make revision"), "{reason}");
    assert_eq!(alone.wait_for_question().have, None);
}

#[test]
fn a_relay_that_cannot_send_it_says_why_and_what_is_known_stays() {
    let mut alone = Alone::open(None);
    alone.gateway.know_building(Revision(9));
    alone.wait_for_question();
    let no = NoBuilding {
        session: SessionId(5),
        reason: "too many places".to_owned(),
    };
    alone
        .gateway
        .handle_down(Down::NoBuilding(no), alone.stamp());
    alone.drain();
    let refused = BuildingNews::Refused("too many places".to_owned());
    assert_eq!(alone.news, [refused]);
    assert_eq!(alone.wait_for_question().have, Some(Revision(9)));
}

#[test]
fn a_building_that_cannot_be_used_is_never_called_the_newest_nor_fetched_again() {
    let shared = Shared::new(&places(1000), &[]).expect("fits");
    let robot = itself(7);
    let offer = shared.of(&robot).expect("fits");
    let mut alone = Alone::open(None);
    alone.gateway.know_building(Revision(9));
    let hear = |alone: &mut Alone, offer: &Offer<'_>| {
        let asked = alone.wait_for_question();
        let answer = BuildingAnswer::of(offer, asked.have, Some(asked.part));
        let BuildingAnswer::Part {
            revision,
            part,
            parts,
            bytes,
        } = answer
        else {
            panic!("no part for {asked:?}");
        };
        alone.hear(revision, part, parts, bytes);
        asked
    };
    while alone.news.is_empty() {
        hear(&mut alone, &offer);
    }
    alone.news.clear();
    alone
        .gateway
        .reject_building(offer.revision(), Some(Revision(9)));
    for _ in 0..5 {
        let before = alone.now;
        let asked = hear(&mut alone, &offer);
        assert_eq!((asked.have, asked.part), (Some(Revision(9)), 0));
        assert!(alone.now.since(before) > 200 * SECOND);
    }
    assert_eq!(alone.news, []);

    // The next one is taken.
    let shared = Shared::new(&places(1), &[]).expect("fits");
    let offer = shared.of(&robot).expect("fits");
    while alone.news.is_empty() {
        hear(&mut alone, &offer);
    }
    let [BuildingNews::Whole(revision, _)] = alone.news.as_slice() else {
        panic!("{:?}", alone.news);
    };
    assert_eq!(*revision, offer.revision());
}

#[test]
fn a_byte_rate_limit_counts_the_parts_and_puts_questions_off() {
    let shared = Shared::new(&places(1000), &[]).expect("fits");
    let robot = itself(7);
    let offer = shared.of(&robot).expect("fits");
    let mut alone = Alone::open(Some(1000));
    let started = alone.now;
    while alone.news.is_empty() {
        let asked = alone.wait_for_question();
        let BuildingAnswer::Part {
            revision,
            part,
            parts,
            bytes,
        } = BuildingAnswer::of(&offer, asked.have, Some(asked.part))
        else {
            panic!("no part for {asked:?}");
        };
        alone.hear(revision, part, parts, bytes);
    }
    let [BuildingNews::Whole(revision, content)] = alone.news.as_slice() else {
        panic!("{:?}", alone.news);
    };
    assert!(Building::decode(*revision, content).is_ok());
    let taken = alone.now.since(started);
    let least = SECOND * u32::try_from(content.len() / 1000).expect("small");
    assert!(taken + 9 * SECOND >= least, "{taken:?} for {least:?}");
}
