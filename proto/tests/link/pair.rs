//! Both halves, their disks and a wire between them that carries at once and remembers everything.

use std::collections::BTreeMap;
use std::time::Duration;

use brrbrr_proto::building::{Building, Itself, Place, Shared};
use brrbrr_proto::down::{Command, Commands, Down, Order, Welcome};
use brrbrr_proto::id::{
    BootId, CommandId, ConnectionId, Cursor, Epoch, HelloId, RelayId, Revision, Seq, SessionId,
};
use brrbrr_proto::link::gateway::{BuildingNews, Closed, Output as FromGateway, SpoolView};
use brrbrr_proto::link::relay::{
    BuildingAnswer, Grants, Ledger, Now, Output as FromRelay, bytes_of,
};
use brrbrr_proto::link::{COMMANDS_PER_FRAME, Gateway, Relay};
use brrbrr_proto::live::{Dated, PerField, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Event, Gone, Hello, Item, Record, Report, Up};

/// What the relay of a pair grants.
pub const GRANTS: Grants = Grants {
    credit: 64 * 1024,
    live_interval: Duration::from_millis(200),
    beat_interval: Duration::from_secs(10),
};

/// A frame on its way up.
#[derive(Debug, Clone)]
pub enum UpFrame {
    Hello(Hello),
    Up(Up),
    Live(Dated),
    Gone(Gone),
}

/// The gateway's durable state.
#[derive(Debug, Clone)]
pub struct Spool {
    pub view: SpoolView,
    pub rows: BTreeMap<Seq, Item>,
    pub down: Option<Cursor>,
    /// Commands that were stored, and so carried out, in order.
    pub ran: Vec<CommandId>,
}

/// The relay's durable state.
#[derive(Debug, Clone)]
pub struct Stores {
    pub journal: BTreeMap<Epoch, Vec<(Seq, Item)>>,
    pub ledger: Ledger,
    pub commands: BTreeMap<Seq, Command>,
}

/// A gateway and a relay that talk.
pub struct Pair {
    pub now: Uptime,
    pub gateway: Gateway,
    pub spool: Spool,
    pub relay: Relay,
    pub stores: Stores,
    /// Nothing arrives any more.
    pub is_cut: bool,
    /// Batches do not arrive, the rest does.
    pub loses_batches: bool,
    pub sent_up: Vec<(Epoch, UpFrame)>,
    pub sent_down: Vec<(Epoch, Down)>,
    pub session: Option<SessionId>,
    pub closed: Vec<Closed>,
    pub reconnects: u32,
    pub renewed_epochs: u32,
    pub renewed_ledgers: u32,
    pub statuses: Vec<Status>,
    pub reports: Vec<Report>,
    /// What the relay's catalog says of the building.
    pub catalog: (Vec<Place>, Itself),
    /// What the gateway has of it.
    pub building: Option<(Revision, Building)>,
    /// How often the relay said that this is the newest.
    pub confirmed: u32,
    /// One of so many answers of the relay about the building is lost, and of the questions.
    pub loses_parts: Option<u32>,
    chance: u32,
    connection: Option<ConnectionId>,
    ids: u64,
}

impl Pair {
    pub fn new() -> Self {
        let view = SpoolView {
            epoch: Epoch(1),
            first: Seq::FIRST,
            next: Seq::FIRST,
        };
        let ledger = Ledger {
            epoch: Epoch(2),
            acked: Seq::FIRST,
            next: Seq::FIRST,
        };
        Self {
            now: Uptime::new(Duration::from_secs(100)),
            gateway: Gateway::new(view, None, "pair".to_owned(), 7),
            spool: Spool {
                view,
                rows: BTreeMap::new(),
                down: None,
                ran: Vec::new(),
            },
            relay: Relay::new(RelayId(1), GRANTS),
            stores: Stores {
                journal: BTreeMap::new(),
                ledger,
                commands: BTreeMap::new(),
            },
            is_cut: false,
            loses_batches: false,
            sent_up: Vec::new(),
            sent_down: Vec::new(),
            session: None,
            closed: Vec::new(),
            reconnects: 0,
            renewed_epochs: 0,
            renewed_ledgers: 0,
            statuses: Vec::new(),
            reports: Vec::new(),
            catalog: (Vec::new(), itself(7)),
            building: None,
            confirmed: 0,
            loses_parts: None,
            chance: 1,
            connection: None,
            ids: 100,
        }
    }

    /// A pair with an open session.
    pub fn connected() -> Self {
        let mut pair = Self::new();
        pair.connect();
        assert!(pair.session.is_some(), "no session");
        pair
    }

    pub fn connect(&mut self) {
        let id = ConnectionId(self.draw());
        self.connection = Some(id);
        self.gateway.handle_connected(id, self.stamp());
        self.settle();
    }

    /// The connection breaks, and the broker publishes the last will.
    pub fn disconnect(&mut self) {
        self.gateway.handle_disconnected();
        if let Some(connection) = self.connection.take() {
            let gone = UpFrame::Gone(Gone { connection });
            self.sent_up.push((self.spool.view.epoch, gone.clone()));
            self.deliver_up(self.spool.view.epoch, gone);
        }
        self.settle();
    }

    /// The gateway starts again from its spool and connects.
    pub fn restart_gateway(&mut self) {
        self.disconnect();
        let seed = self.draw();
        self.gateway = Gateway::new(self.spool.view, self.spool.down, "pair".to_owned(), seed);
        if let Some((revision, _)) = &self.building {
            self.gateway.know_building(*revision);
        }
        self.session = None;
        self.connect();
    }

    /// The relay starts again from its stores, and with it the connection.
    pub fn restart_relay(&mut self) {
        self.relay = Relay::new(RelayId(self.draw()), GRANTS);
        self.gateway.handle_disconnected();
        self.connection = None;
        self.settle();
        self.connect();
    }

    pub fn append(&mut self, text: &str) {
        let record = text.as_bytes().to_vec();
        let next = self.spool.view.next;
        self.spool.rows.insert(next, Item { covers: 1, record });
        self.spool.view.next = next.plus(1);
        self.gateway.handle_appended(self.spool.view.next, self.now);
        self.settle();
    }

    pub fn submit(&mut self, id: u128) {
        let command = command(id);
        self.stores
            .commands
            .insert(self.stores.ledger.next, command);
        self.stores.ledger.next = self.stores.ledger.next.plus(1);
        self.relay.handle_wake();
        self.settle();
    }

    pub fn show(&mut self, battery: f64) {
        let status = Status {
            battery: Some(battery),
            ..Status::default()
        };
        self.gateway
            .handle_status(status, PerField::default(), self.now);
        self.settle();
    }

    pub fn hear(&mut self, down: Down) {
        self.gateway.handle_down(down, self.stamp());
        self.settle();
    }

    pub fn deliver_up(&mut self, epoch: Epoch, frame: UpFrame) {
        let session = SessionId(self.draw());
        let now = self.relay_now();
        match frame {
            UpFrame::Hello(hello) => self.relay.handle_hello(epoch, hello, session, now),
            UpFrame::Up(up) => self.relay.handle_up(epoch, up, now),
            UpFrame::Live(live) => self.relay.handle_live(live, now),
            UpFrame::Gone(gone) => self.relay.handle_gone(gone),
        }
    }

    /// Lets time pass, with every timer at its moment.
    pub fn pass(&mut self, pause: Duration) {
        let end = self.now.plus(pause);
        loop {
            let timers = [self.gateway.poll_timeout(), self.relay.poll_timeout()];
            let Some(next) = timers.into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.gateway.handle_timeout(self.stamp());
            self.relay.handle_timeout(self.relay_now());
            self.settle();
        }
        self.now = end;
    }

    /// Carries everything until both sides have nothing more to say.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(output) = self.gateway.poll_output() {
                self.carry_out_gateway(output);
            } else if let Some(output) = self.relay.poll_output() {
                self.carry_out_relay(output);
            } else {
                return;
            }
        }
        panic!("the two halves never come to rest");
    }

    /// The texts in the journal of an epoch, with `-n` for a tombstone of n.
    pub fn journal(&self, epoch: Epoch) -> Vec<String> {
        let items = self.stores.journal.get(&epoch).into_iter().flatten();
        items.map(|(_, item)| describe(item)).collect()
    }

    pub fn stamp(&self) -> Stamp {
        Stamp {
            boot: BootId(1),
            uptime: self.now,
            wall: WallClock(0),
        }
    }

    pub fn relay_now(&self) -> Now {
        Now {
            uptime: self.now,
            wall: WallClock(0),
        }
    }

    fn draw(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn carry_out_gateway(&mut self, output: FromGateway) {
        match output {
            FromGateway::Hello(hello) => self.publish(UpFrame::Hello(hello)),
            FromGateway::Up(_, up) => self.publish(UpFrame::Up(up)),
            FromGateway::Live(_, live) => self.publish(UpFrame::Live(live)),
            FromGateway::Read {
                from, max_items, ..
            } => {
                let rows = self.spool.rows.range(from..).take(max_items.min(3));
                let items = rows.map(|(_, item)| item.clone()).collect();
                self.gateway.handle_read(from, items, self.now);
            }
            FromGateway::Release { next } => {
                self.spool.rows = self.spool.rows.split_off(&next);
                self.spool.view.first = self.spool.view.first.max(next);
            }
            FromGateway::Store {
                cursor, commands, ..
            } => {
                for command in commands {
                    if !self.spool.ran.contains(&command.id) {
                        self.spool.ran.push(command.id);
                    }
                }
                self.spool.down = Some(cursor);
                self.gateway.handle_commands_stored(cursor, self.now);
            }
            FromGateway::RenewEpoch => {
                self.renewed_epochs += 1;
                let rows = std::mem::take(&mut self.spool.rows).into_values();
                self.spool.rows = (1..).map(Seq).zip(rows).collect();
                self.spool.view = SpoolView {
                    epoch: Epoch(self.draw()),
                    first: Seq::FIRST,
                    next: Seq::FIRST.plus(self.spool.rows.len() as u64),
                };
                self.gateway.handle_renewed(self.spool.view, self.stamp());
            }
            FromGateway::Building(BuildingNews::Whole(revision, content)) => {
                let building = Building::decode(revision, &content);
                self.building = Some((revision, building.expect("belongs to its revision")));
            }
            FromGateway::Building(BuildingNews::Newest(_)) => self.confirmed += 1,
            FromGateway::Building(BuildingNews::Refused(reason)) => panic!("refused: {reason}"),
            FromGateway::Reconnect => self.reconnects += 1,
            FromGateway::Opened(session, _) => self.session = Some(session),
            FromGateway::Closed(reason) => {
                self.session = None;
                self.closed.push(reason);
            }
        }
    }

    fn publish(&mut self, frame: UpFrame) {
        let epoch = self.spool.view.epoch;
        self.sent_up.push((epoch, frame.clone()));
        let is_lost = match &frame {
            UpFrame::Up(Up::Batch(_)) => self.loses_batches,
            UpFrame::Up(Up::Wanted(_)) => self.loses_now(),
            _ => false,
        };
        if !self.is_cut && !is_lost {
            self.deliver_up(epoch, frame);
        }
    }

    fn carry_out_relay(&mut self, output: FromRelay) {
        match output {
            FromRelay::Send(epoch, down) => {
                self.sent_down.push((epoch, down.clone()));
                let is_lost = matches!(down, Down::Building(_)) && self.loses_now();
                if !self.is_cut && !is_lost && epoch == self.spool.view.epoch {
                    self.gateway.handle_down(down, self.stamp());
                }
            }
            FromRelay::Recall { session, epoch } => self.recall(session, epoch),
            FromRelay::RenewLedger { session, epoch } => {
                self.renewed_ledgers += 1;
                let waiting = self.stores.commands.split_off(&self.stores.ledger.acked);
                self.stores.commands = (1..).map(Seq).zip(waiting.into_values()).collect();
                self.stores.ledger = Ledger {
                    epoch: Epoch(self.draw()),
                    acked: Seq::FIRST,
                    next: Seq::FIRST.plus(self.stores.commands.len() as u64),
                };
                self.recall(session, epoch);
            }
            FromRelay::Store(store) => {
                let mut at = store.first;
                assert_eq!(
                    at,
                    self.due(store.epoch),
                    "a hole or a double in the journal"
                );
                let bytes = bytes_of(&store.items);
                for item in store.items {
                    let end = at.plus(item.covers);
                    let journal = self.stores.journal.entry(store.epoch).or_default();
                    journal.push((at, item));
                    at = end;
                }
                self.relay.handle_stored(store.session, at, bytes);
            }
            FromRelay::Load { session, from } => {
                let commands = self.stores.commands.range(from..).take(COMMANDS_PER_FRAME);
                let commands = commands.map(|(_, command)| command.clone()).collect();
                let now = self.relay_now();
                self.relay.handle_loaded(session, from, commands, now);
            }
            FromRelay::Delivered(cursor) => {
                assert_eq!(cursor.epoch, self.stores.ledger.epoch);
                assert!(cursor.next <= self.stores.ledger.next, "never sent");
                self.stores.ledger.acked = self.stores.ledger.acked.max(cursor.next);
            }
            FromRelay::Status(status, _, _) => self.statuses.push(status),
            FromRelay::Report(_, report) => self.reports.push(report),
            FromRelay::Building {
                session,
                have,
                part,
            } => {
                let shared = Shared::new(&self.catalog.0, &[]).expect("fits");
                let offer = shared.of(&self.catalog.1).expect("fits");
                let answer = BuildingAnswer::of(&offer, have, part);
                self.relay.handle_building(session, Some(answer));
            }
            FromRelay::Sent { .. } | FromRelay::Opened(_) | FromRelay::Closed(_) => {}
        }
    }

    fn loses_now(&mut self) -> bool {
        // The generator of Numerical Recipes; its upper half is chance enough.
        let next = self.chance.wrapping_mul(1_664_525);
        self.chance = next.wrapping_add(1_013_904_223);
        let chance = self.chance >> 16;
        self.loses_parts
            .is_some_and(|every| chance.is_multiple_of(every))
    }

    fn recall(&mut self, session: SessionId, epoch: Epoch) {
        let (due, ledger) = (self.due(epoch), self.stores.ledger);
        let now = self.relay_now();
        self.relay.handle_recalled(session, due, ledger, now);
    }

    fn due(&self, epoch: Epoch) -> Seq {
        let last = self
            .stores
            .journal
            .get(&epoch)
            .and_then(|items| items.last());
        last.map_or(Seq::FIRST, |(at, item)| at.plus(item.covers))
    }
}

/// A robot that serves this floor.
pub fn itself(floor: i32) -> Itself {
    Itself {
        name: "guide-7".to_owned(),
        floor,
        home: None,
    }
}

/// So many places of a building.
pub fn places(count: i64) -> Vec<Place> {
    let place = |id| Place {
        id,
        name: format!("place {id}"),
        aliases: Vec::new(),
        floor: 7,
        x: 1.0,
        y: 2.0,
        description: Some("somewhere near the window".to_owned()),
        thumburl: None,
        mapurl: None,
    };
    (1..=count).map(place).collect()
}

/// A gateway alone with `waiting` records in its spool.
pub fn gateway(waiting: u64, seed: u64) -> Gateway {
    let view = SpoolView {
        epoch: Epoch(1),
        first: Seq::FIRST,
        next: Seq::FIRST.plus(waiting),
    };
    Gateway::new(view, None, "alone".to_owned(), seed)
}

/// The board's clocks, this many milliseconds after some moment.
pub fn at(millis: u64) -> Stamp {
    Stamp {
        boot: BootId(1),
        uptime: Uptime::new(Duration::from_secs(100) + Duration::from_millis(millis)),
        wall: WallClock(0),
    }
}

/// A relay's answer to a hello, with [`GRANTS`].
pub fn welcome(hello: HelloId) -> Welcome {
    Welcome {
        hello,
        session: SessionId(5),
        relay: RelayId(6),
        up_next: Seq::FIRST,
        down: Cursor {
            epoch: Epoch(2),
            next: Seq::FIRST,
        },
        now: WallClock(0),
        uptime: Uptime::default(),
        credit: GRANTS.credit,
        live_interval: GRANTS.live_interval,
        beat_interval: GRANTS.beat_interval,
        version: 1,
    }
}

/// Commands in the session of [`welcome`].
pub fn commands(first: u64, sent: Uptime, ids: &[u128]) -> Down {
    Down::Commands(Commands {
        session: SessionId(5),
        sent,
        first: Seq(first),
        commands: ids.iter().copied().map(command).collect(),
    })
}

pub fn command(id: u128) -> Command {
    Command {
        id: CommandId(id),
        time_to_live: Duration::from_secs(60),
        order: Order::Stop,
    }
}

/// Everything that waits to be done.
pub fn drain(gateway: &mut Gateway) -> Vec<FromGateway> {
    std::iter::from_fn(|| gateway.poll_output()).collect()
}

/// See [`drain`].
pub fn drain_relay(relay: &mut Relay) -> Vec<FromRelay> {
    std::iter::from_fn(|| relay.poll_output()).collect()
}

/// The hello among the outputs.
pub fn hello_in(outputs: &[FromGateway]) -> Option<Hello> {
    outputs.iter().find_map(|output| match output {
        FromGateway::Hello(hello) => Some(hello.clone()),
        _ => None,
    })
}

fn describe(item: &Item) -> String {
    match Record::decode(&item.record) {
        Ok(Record {
            event: Event::Tombstone(tombstone),
            ..
        }) => format!("-{}", tombstone.count),
        _ => String::from_utf8_lossy(&item.record).into_owned(),
    }
}
