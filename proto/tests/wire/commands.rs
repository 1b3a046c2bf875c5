//! The bytes of what version 1 says of commands that are given on the board, of their progress, and
//! of commands that are not to be entered. Never edited, only added to.

use std::time::Duration;

use brrbrr_proto::down::{Command, Commands, Down, Order};
use brrbrr_proto::id::{CommandId, Seq, SessionId};
use brrbrr_proto::up::{Event, Ordered, Progressed};

use crate::v1::{pin, pin_event, uptime};

#[test]
fn commands_of_the_board_are_pinned() {
    let of = |key: Option<&str>| {
        Event::Ordered(Ordered {
            command: CommandId(0x33),
            key: key.map(str::to_owned),
            actor: "board".to_owned(),
            time_to_live: Duration::from_secs(60),
            order: Order::Stop,
        })
    };
    pin_event(
        of(None),
        "888e98a8c0e0808101c0843d8080afa2dbffad0608330005626f6172643c0001",
    );
    pin_event(
        of(Some("k")),
        "888e98a8c0e0808101c0843d8080afa2dbffad06083301016b05626f6172643c0001",
    );
}

#[test]
fn progress_is_pinned() {
    let progressed = Progressed {
        command: CommandId(0x33),
        percent: 100,
        text: "ok".to_owned(),
    };
    pin_event(
        Event::Progressed(progressed),
        "888e98a8c0e0808101c0843d8080afa2dbffad06093364026f6b",
    );
}

#[test]
fn a_command_that_is_not_to_be_entered_is_pinned() {
    let command = Command {
        id: CommandId(0x33),
        time_to_live: Duration::ZERO,
        order: Order::Withdrawn,
    };
    let commands = Commands {
        session: SessionId(0x22),
        sent: uptime(),
        first: Seq(7),
        commands: vec![command],
    };
    pin(&Down::Commands(commands), "0222c0843d070133000008");
}
