//! The bytes of what version 1 says of the spool. Never edited, only added to.

use brrbrr_proto::id::{Seq, SessionId};
use brrbrr_proto::live::Status;
use brrbrr_proto::up::{Disk, Event, Report, Span, Thinned, Up};

use crate::v1::{pin, pin_event, stamp, uptime};

#[test]
fn reports_are_pinned() {
    let of = |disk, oldest, detail: &str| {
        Up::Report(Report {
            session: SessionId(0x22),
            sent: uptime(),
            next: Seq(300),
            oldest,
            disk,
            since: uptime(),
            detail: detail.to_owned(),
        })
    };
    pin(
        &of(Disk::Fine, None, ""),
        "\
         0222c0843dac020000c0843d00",
    );
    pin(
        &of(Disk::Short, Some(stamp()), ""),
        "\
         0222c0843dac0201888e98a8c0e0808101c0843d8080afa2dbffad0601c0843d\
         00",
    );
    pin(
        &of(Disk::Failing, None, "full"),
        "\
         0222c0843dac020002c0843d0466756c6c",
    );
}

#[test]
fn thinned_telemetry_is_pinned() {
    let of = |battery, speed| {
        Event::Thinned(Thinned {
            count: 10,
            since: stamp(),
            battery,
            speed,
            last: Status::default(),
        })
    };
    pin_event(
        of(None, None),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad06070a888e98a8c0e0808101c0\
         843d8080afa2dbffad060000000000000000",
    );
    let span = Span {
        low: 0.25,
        high: 0.5,
    };
    pin_event(
        of(Some(span), Some(span)),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad06070a888e98a8c0e0808101c0\
         843d8080afa2dbffad0601000000000000d03f000000000000e03f0100000000\
         0000d03f000000000000e03f000000000000",
    );
}
